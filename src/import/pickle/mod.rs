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
    /// Name of the archive's entry.
    pub key: String,
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
