//! The instructions of a pickle, one by one.

use std::collections::HashMap;

use super::cursor::Cursor;
use super::{ImportError, Known, Pickle, STORAGES, Storage, TensorView, Value, broken, refused};

/// Most arguments of a call, and dimensions of a tensor: PyTorch's own calls have seven at most.
const MAX_COPIED: usize = 8;

/// The stack machine that a pickle is a program for.
pub(super) struct Machine<'a> {
    input: Cursor<'a>,
    stack: Vec<Value>,
    /// Heights of the stack at every open mark.
    marks: Vec<usize>,
    memo: HashMap<usize, Value>,
    pickle: Pickle,
}

impl<'a> Machine<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let pickle = Pickle::default();
        Self { input: Cursor::new(bytes), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), pickle }
    }

    /// Runs the program to its end and returns what it made.
    pub(super) fn run(mut self) -> Result<(Pickle, Value), ImportError> {
        loop {
            match self.input.byte()? {
                b'.' => {
                    let result = self.pop()?;
                    return Ok((self.pickle, result));
                }
                0x80 => self.protocol()?,
                0x95 => drop(self.input.take(8)?),
                b'N' => self.stack.push(Value::Other),
                b'G' => {
                    self.input.take(8)?;
                    self.stack.push(Value::Other);
                }
                op @ (0x88 | 0x89) => self.stack.push(Value::Int(i64::from(op == 0x88))),
                op @ (b'K' | b'M' | b'J' | 0x8a) => self.integer(op)?,
                op @ (b'X' | 0x8c | b'U' | b'T') => self.read_text(op)?,
                op @ (b'C' | b'B') => {
                    let length = self.input.length(if op == b'C' { 1 } else { 4 })?;
                    self.input.take(length)?;
                    self.stack.push(Value::Other);
                }
                b'(' => self.marks.push(self.stack.len()),
                b')' | b']' => self.push_list(Vec::new()),
                b'}' => self.push_dict(),
                b't' | b'l' => {
                    let items = self.pop_to_mark()?;
                    self.push_list(items);
                }
                op @ 0x85..=0x87 => {
                    let items = self.pop_many(usize::from(op - 0x84))?;
                    self.push_list(items);
                }
                op @ (b'a' | b'e') => {
                    let items = if op == b'a' { self.pop_many(1)? } else { self.pop_to_mark()? };
                    self.extend_list(&items)?;
                }
                op @ (b's' | b'u') => {
                    let items = if op == b's' { self.pop_many(2)? } else { self.pop_to_mark()? };
                    self.extend_dict(&items)?;
                }
                op @ (b'q' | b'r' | 0x94) => self.memoise(op)?,
                op @ (b'h' | b'j') => self.recall(op)?,
                b'c' => {
                    let (module, name) = (self.input.line()?, self.input.line()?);
                    self.name(&module, &name)?;
                }
                0x93 => self.stack_global()?,
                b'Q' => self.persistent()?,
                b'R' => self.reduce()?,
                b'b' => self.build()?,
                b'0' => drop(self.pop()?),
                op => return Err(refused(format!("instruction {op:#04x}"))),
            }
        }
    }

    fn protocol(&mut self) -> Result<(), ImportError> {
        match self.input.byte()? {
            2..=5 => Ok(()),
            other => Err(refused(format!("pickle protocol {other}"))),
        }
    }

    fn integer(&mut self, op: u8) -> Result<(), ImportError> {
        let value = match op {
            b'K' => i64::from(self.input.byte()?),
            b'M' => self.input.length(2)? as i64,
            b'J' => {
                let bytes = self.input.take(4)?;
                i64::from(i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            }
            _ => {
                let length = self.input.length(1)?;
                let bytes = self.input.take(length)?;
                if length > 8 {
                    return Err(broken("an integer of more than eight bytes"));
                }
                let sign = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
                let mut whole = [sign; 8];
                whole[..length].copy_from_slice(bytes);
                i64::from_le_bytes(whole)
            }
        };
        self.stack.push(Value::Int(value));
        Ok(())
    }

    fn read_text(&mut self, op: u8) -> Result<(), ImportError> {
        let length = self.input.length(if matches!(op, b'X' | b'T') { 4 } else { 1 })?;
        let text = std::str::from_utf8(self.input.take(length)?).map_err(|_| broken("a text that is not UTF-8"))?.to_owned();
        self.pickle.texts.push(text);
        self.stack.push(Value::Text(self.pickle.texts.len() - 1));
        Ok(())
    }

    fn push_list(&mut self, items: Vec<Value>) {
        self.pickle.lists.push(items);
        self.stack.push(Value::List(self.pickle.lists.len() - 1));
    }

    fn push_dict(&mut self) {
        self.pickle.dicts.push(Vec::new());
        self.stack.push(Value::Dict(self.pickle.dicts.len() - 1));
    }

    fn extend_list(&mut self, items: &[Value]) -> Result<(), ImportError> {
        match self.stack.last() {
            Some(&Value::List(list)) => self.pickle.lists[list].extend(items),
            _ => return Err(broken("an item for what is no list")),
        }
        Ok(())
    }

    fn extend_dict(&mut self, items: &[Value]) -> Result<(), ImportError> {
        let (pairs, rest) = items.as_chunks::<2>();
        match self.stack.last() {
            Some(&Value::Dict(dict)) if rest.is_empty() => self.pickle.dicts[dict].extend(pairs.iter().map(|&[key, value]| (key, value))),
            _ => return Err(broken("an entry for what is no dictionary")),
        }
        Ok(())
    }

    fn memoise(&mut self, op: u8) -> Result<(), ImportError> {
        let index = match op {
            b'q' => self.input.length(1)?,
            b'r' => self.input.length(4)?,
            _ => self.memo.len(),
        };
        let value = *self.stack.last().ok_or_else(|| broken("an empty stack"))?;
        self.memo.insert(index, value);
        Ok(())
    }

    fn recall(&mut self, op: u8) -> Result<(), ImportError> {
        let index = self.input.length(if op == b'h' { 1 } else { 4 })?;
        let value = *self.memo.get(&index).ok_or_else(|| broken("a reference to nothing"))?;
        self.stack.push(value);
        Ok(())
    }

    fn stack_global(&mut self) -> Result<(), ImportError> {
        let items = self.pop_many(2)?;
        let (Some(module), Some(name)) = (self.pickle.text(items[0]), self.pickle.text(items[1])) else {
            return Err(broken("a name that is no text"));
        };
        let (module, name) = (module.to_owned(), name.to_owned());
        self.name(&module, &name)
    }

    /// Pushes what `module.name` means, if it is one of the few things that a dictionary of tensors needs.
    fn name(&mut self, module: &str, name: &str) -> Result<(), ImportError> {
        let known = match (module, name) {
            ("collections", "OrderedDict") => Known::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Known::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Known::RebuildParameter,
            ("torch", _) => match STORAGES.iter().find(|(storage, _)| *storage == name) {
                Some((_, element)) => Known::Element(*element),
                None => return Err(refused(format!("torch.{name}"))),
            },
            _ => return Err(refused(format!("{module}.{name}"))),
        };
        self.stack.push(Value::Known(known));
        Ok(())
    }

    /// `('storage', type, key, device, count)`: a storage in the archive.
    fn persistent(&mut self) -> Result<(), ImportError> {
        let id = self.pop()?;
        let items = self.items(id)?;
        let [kind, Value::Known(Known::Element(element)), key, ..] = items[..] else {
            return Err(broken("a reference that names no storage"));
        };
        let (Some("storage"), Value::Text(key)) = (self.pickle.text(kind), key) else {
            return Err(broken("a reference that names no storage"));
        };
        self.pickle.storages.push(Storage { element, key });
        self.stack.push(Value::Storage(self.pickle.storages.len() - 1));
        Ok(())
    }

    /// One of the known calls.
    fn reduce(&mut self) -> Result<(), ImportError> {
        let call = self.pop_many(2)?;
        let arguments = self.few_items(call[1])?.to_vec();
        match (call[0], &arguments[..]) {
            (Value::Known(Known::OrderedDict), []) => self.push_dict(),
            (Value::Known(Known::RebuildParameter), [tensor @ Value::Tensor(_), ..]) => self.stack.push(*tensor),
            (Value::Known(Known::RebuildTensor), [Value::Storage(storage), Value::Int(offset), shape, strides, ..]) => {
                let tensor =
                    TensorView { storage: *storage, offset: size(*offset)?, shape: self.sizes(*shape)?, strides: self.sizes(*strides)? };
                if tensor.shape.len() != tensor.strides.len() {
                    return Err(broken("a tensor with another number of strides than dimensions"));
                }
                self.pickle.tensors.push(tensor);
                self.stack.push(Value::Tensor(self.pickle.tensors.len() - 1));
            }
            _ => return Err(broken("a call with arguments that do not fit")),
        }
        Ok(())
    }

    /// Attributes of an ordered dictionary, which PyTorch uses for versions of modules: nothing that a tensor depends on.
    fn build(&mut self) -> Result<(), ImportError> {
        self.pop()?;
        match self.stack.last() {
            Some(Value::Dict(_)) => Ok(()),
            _ => Err(refused("attributes of what is no dictionary".to_owned())),
        }
    }

    fn sizes(&self, value: Value) -> Result<Vec<usize>, ImportError> {
        let sizes = self.few_items(value)?.iter().map(|item| match item {
            Value::Int(value) => size(*value),
            _ => Err(broken("a size that is no number")),
        });
        sizes.collect()
    }

    fn items(&self, value: Value) -> Result<&[Value], ImportError> {
        match value {
            Value::List(index) => Ok(&self.pickle.lists[index]),
            _ => Err(broken("a tuple that is none")),
        }
    }

    /// The items of a tuple that is copied wherever it is mentioned.
    fn few_items(&self, value: Value) -> Result<&[Value], ImportError> {
        let items = self.items(value)?;
        if items.len() > MAX_COPIED { Err(broken("more arguments or dimensions than a tensor has")) } else { Ok(items) }
    }

    fn pop(&mut self) -> Result<Value, ImportError> {
        self.pop_many(1).map(|items| items[0])
    }

    /// Takes `count` values off the stack, but none below the last mark.
    fn pop_many(&mut self, count: usize) -> Result<Vec<Value>, ImportError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(count) {
            Some(start) if start >= floor => Ok(self.stack.split_off(start)),
            _ => Err(broken("an empty stack")),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, ImportError> {
        let mark = self.marks.pop().ok_or_else(|| broken("a missing mark"))?;
        Ok(self.stack.split_off(mark))
    }
}

fn size(value: i64) -> Result<usize, ImportError> {
    usize::try_from(value).map_err(|_| broken("a negative size"))
}
