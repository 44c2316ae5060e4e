//! The part of Python's pickle format that a dictionary of tensors needs, read without running anything.
//!
//! A pickle is a program for a small stack machine, and Python's own reader lets it call any function. This one knows four
//! calls, all of which only arrange data: making an ordered dictionary, a tensor from a storage, a parameter from a tensor,
//! and naming a storage. Whatever else a file asks for is refused by name.
//!
//! Compound values lie in tables and are known by their index: a file cannot nest values so deep that dropping them overflows
//! the stack, nor make a small file grow by mentioning a large value often.

mod cursor;
mod machine;

use super::ImportError;
use machine::Machine;

/// A value on the machine's stack.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// `None`, or a value that no tensor depends on: a float, bytes.
    Other,
    /// An integer or a truth value.
    Int(i64),
    /// Index into [`Pickle::texts`].
    Text(usize),
    /// Index into [`Pickle::lists`]: a tuple or a list.
    List(usize),
    /// Index into [`Pickle::dicts`].
    Dict(usize),
    /// One of the known calls, or a storage type.
    Known(Known),
    /// Index into [`Pickle::storages`].
    Storage(usize),
    /// Index into [`Pickle::tensors`].
    Tensor(usize),
}

/// What a pickle may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor_v2`.
    RebuildTensor,
    /// `torch._utils._rebuild_parameter`.
    RebuildParameter,
    /// A storage type.
    Element(Element),
}

/// The element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// float32.
    Float,
    /// int64.
    Long,
    /// Any other, by PyTorch's name.
    Unsupported(&'static str),
}

/// A run of elements in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// Element type.
    pub element: Element,
    /// Name of the archive's entry: index into [`Pickle::texts`].
    pub key: usize,
}

/// A view into a storage; nothing says yet that it lies inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorView {
    /// Index into [`Pickle::storages`].
    pub storage: usize,
    /// First element.
    pub offset: usize,
    /// Size of every dimension.
    pub shape: Vec<usize>,
    /// Elements between neighbours in every dimension.
    pub strides: Vec<usize>,
}

/// What a pickle holds.
#[derive(Debug, Default)]
pub struct Pickle {
    /// Texts.
    pub texts: Vec<String>,
    /// Tuples and lists.
    pub lists: Vec<Vec<Value>>,
    /// Dictionaries, in the order of insertion.
    pub dicts: Vec<Vec<(Value, Value)>>,
    /// Storages.
    pub storages: Vec<Storage>,
    /// Tensors.
    pub tensors: Vec<TensorView>,
}

const STORAGES: [(&str, Element); 10] = [
    ("FloatStorage", Element::Float),
    ("LongStorage", Element::Long),
    ("DoubleStorage", Element::Unsupported("float64")),
    ("HalfStorage", Element::Unsupported("float16")),
    ("BFloat16Storage", Element::Unsupported("bfloat16")),
    ("IntStorage", Element::Unsupported("int32")),
    ("ShortStorage", Element::Unsupported("int16")),
    ("CharStorage", Element::Unsupported("int8")),
    ("ByteStorage", Element::Unsupported("uint8")),
    ("BoolStorage", Element::Unsupported("bool")),
];

impl Pickle {
    /// Reads a pickle and returns it with its result.
    ///
    /// # Errors
    /// [`ImportError::Refused`] for a file that asks for anything but data; [`ImportError::Pickle`] for one that is cut short
    /// or makes no sense.
    pub fn read(bytes: &[u8]) -> Result<(Self, Value), ImportError> {
        Machine::new(bytes).run()
    }

    /// The text behind `value`, if it is one.
    #[must_use]
    pub fn text(&self, value: Value) -> Option<&str> {
        match value {
            Value::Text(index) => self.texts.get(index).map(String::as_str),
            _ => None,
        }
    }
}

fn refused(what: String) -> ImportError {
    ImportError::Refused { what }
}

fn broken(problem: &'static str) -> ImportError {
    ImportError::Pickle { problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `{'state_dict': OrderedDict([('w', tensor)])}` with a tensor of shape [2, 3], as PyTorch writes it.
    fn tensor_dictionary() -> Vec<u8> {
        let mut bytes = b"\x80\x02}q\x00X\x0a\x00\x00\x00state_dictq\x01ccollections\nOrderedDict\nq\x02)Rq\x03".to_vec();
        bytes.extend(b"X\x01\x00\x00\x00wq\x04ctorch._utils\n_rebuild_tensor_v2\nq\x05");
        bytes.extend(
            b"((X\x07\x00\x00\x00storageq\x06ctorch\nFloatStorage\nq\x07X\x01\x00\x00\x000q\x08X\x03\x00\x00\x00cpuq\x09K\x06tq\x0aQ",
        );
        bytes.extend(b"K\x00K\x02K\x03\x86q\x0bK\x03K\x01\x86q\x0c\x89h\x02)Rq\x0dtq\x0eRq\x0f");
        // The ordered dictionary's attributes, as modules leave them.
        bytes.extend(b"s}q\x10X\x09\x00\x00\x00_metadataq\x11h\x02)Rsbs.");
        bytes
    }

    #[test]
    fn what_pytorch_writes_is_read() {
        let (pickle, top) = Pickle::read(&tensor_dictionary()).unwrap();
        let Value::Dict(top) = top else { panic!("{top:?} is a dictionary") };
        let [(key, Value::Dict(state))] = pickle.dicts[top][..] else { panic!("one entry, not {:?}", pickle.dicts[top]) };
        assert_eq!(pickle.text(key), Some("state_dict"));
        let [(name, Value::Tensor(tensor))] = pickle.dicts[state][..] else { panic!("one tensor, not {:?}", pickle.dicts[state]) };
        assert_eq!(pickle.text(name), Some("w"));
        assert_eq!(pickle.tensors[tensor], TensorView { storage: 0, offset: 0, shape: vec![2, 3], strides: vec![3, 1] });
        let [Storage { element: Element::Float, key }] = pickle.storages[..] else { panic!("one storage, not {:?}", pickle.storages) };
        assert_eq!(pickle.texts[key], "0");
    }

    #[test]
    fn what_would_run_code_is_refused_by_name() {
        let cases: [(&[u8], &str); 6] = [
            (b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.", "os.system"),
            (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x01x\x85R.", "builtins.eval"),
            (b"\x80\x02ctorch\nload\n.", "torch.load"),
            (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "instruction 0x81"),
            (b"\x80\x02K\x01}b.", "attributes of what is no dictionary"),
            (b"\x80\x00.", "pickle protocol 0"),
        ];
        for (bytes, what) in cases {
            let error = Pickle::read(bytes).unwrap_err();
            assert!(matches!(&error, ImportError::Refused { what: found } if found == what), "{error}");
        }
    }

    #[test]
    fn a_pickle_cut_or_garbled_anywhere_is_an_error_or_data() {
        let whole = tensor_dictionary();
        for length in 0..whole.len() {
            assert!(Pickle::read(&whole[..length]).is_err(), "{length} of {} bytes", whole.len());
        }
        for at in 0..whole.len() {
            for byte in 0..=255 {
                let mut garbled = whole.clone();
                garbled[at] = byte;
                // Whatever comes out, nothing panics.
                let _ = Pickle::read(&garbled);
            }
        }
    }

    #[test]
    fn what_is_copied_where_it_is_mentioned_is_short() {
        for dimensions in [8, 9] {
            let mut bytes =
                b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000tQK\0(".to_vec();
            bytes.extend(b"K\x01".repeat(dimensions));
            bytes.extend(b"tq\0h\0tR.");
            assert_eq!(Pickle::read(&bytes).is_ok(), dimensions == 8, "{dimensions} dimensions");
        }
    }

    #[test]
    fn deep_nesting_is_no_danger() {
        let mut bytes = b"\x80\x02)".to_vec();
        bytes.resize(bytes.len() + 1_000_000, 0x85);
        bytes.push(b'.');
        assert!(matches!(Pickle::read(&bytes), Ok((_, Value::List(_)))));
    }

    #[test]
    fn programs_that_make_no_sense_are_errors() {
        let cases: [&[u8]; 8] = [
            b".",
            b"\x80\x02t.",
            b"\x80\x02h\x07.",
            b"\x80\x02K\x01K\x02s.",
            b"\x80\x02}K\x01(u.",
            b"\x80\x02(K\x010e.",
            b"\x80\x02X\xff\xff\xff\xff.",
            b"\x80\x02K\x01Q.",
        ];
        for bytes in cases {
            let error = Pickle::read(bytes).unwrap_err();
            assert!(matches!(error, ImportError::Pickle { .. }), "{bytes:?}: {error}");
        }
    }
}
