//! A checkpoint with the names and shapes of the public AttentiveNAS and AlphaNet supernets, and random contents.
//!
//! The contents hide nothing: no scale is one, no bias is zero, and what must not be read is filled with nonsense. The pickle
//! is, byte for byte, the one that `torch.save` writes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use tch::{Device, Kind, Tensor};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Classes of ImageNet.
pub const CLASSES: i64 = 1000;

/// Of each stage, at its largest: width, depth, expansion, and whether it squeezes.
const STAGES: [(i64, usize, i64, bool); 7] =
    [(24, 2, 1, false), (32, 5, 6, false), (40, 6, 6, true), (72, 6, 6, false), (128, 8, 6, true), (216, 8, 6, true), (224, 2, 6, true)];

/// Width of the stem, of the head's expansion and of its last layer, at their largest.
const HEAD: [i64; 3] = [24, 1344, 1984];

/// How a tensor is filled.
#[derive(Clone, Copy, PartialEq)]
pub enum Fill {
    /// Normal, with this standard deviation.
    Normal(f64),
    /// Uniform around one: a batch norm's scale.
    Scale,
    /// Large numbers of either sign, not even possible as variances: a buffer that nobody should read.
    Garbage,
    /// A 64-bit counter.
    Counter,
}

/// A tensor of the checkpoint: name, shape, contents.
pub type Entry = (String, Vec<i64>, Fill);

/// What the checkpoint holds, in the order in which PyTorch lists it.
pub fn entries() -> Vec<Entry> {
    let mut list = Vec::new();
    convolution(&mut list, "first_conv", [HEAD[0], 3, 3, 3]);
    batch_norm(&mut list, "first_conv", HEAD[0]);
    let (mut block, mut input) = (0, HEAD[0]);
    for (width, depth, expansion, squeeze) in STAGES {
        for _ in 0..depth {
            let prefix = format!("blocks.{block}.mobile_inverted_conv");
            let expanded = input * expansion;
            if expansion > 1 {
                let name = format!("{prefix}.inverted_bottleneck");
                convolution(&mut list, &name, [expanded, input, 1, 1]);
                batch_norm(&mut list, &name, expanded);
            }
            let name = format!("{prefix}.depth_conv");
            convolution(&mut list, &name, [expanded, 1, 5, 5]);
            batch_norm(&mut list, &name, expanded);
            if squeeze {
                // Biases and weights that send some gates to either end of the hard sigmoid and leave most between.
                let reduced = (expanded / 4 + 4) / 8 * 8;
                list.push((format!("{name}.se.fc.reduce.weight"), vec![reduced, expanded, 1, 1], fan_in(expanded, 3.0)));
                list.push((format!("{name}.se.fc.reduce.bias"), vec![reduced], Fill::Normal(0.5)));
                list.push((format!("{name}.se.fc.expand.weight"), vec![expanded, reduced, 1, 1], fan_in(reduced, 2.0)));
                list.push((format!("{name}.se.fc.expand.bias"), vec![expanded], Fill::Normal(1.5)));
            }
            let name = format!("{prefix}.point_linear");
            convolution(&mut list, &name, [width, expanded, 1, 1]);
            batch_norm(&mut list, &name, width);
            convolution(&mut list, &format!("blocks.{block}.shortcut"), [width, input, 1, 1]);
            (block, input) = (block + 1, width);
        }
    }
    convolution(&mut list, "last_conv.final_expand_layer", [HEAD[1], input, 1, 1]);
    batch_norm(&mut list, "last_conv.final_expand_layer", HEAD[1]);
    // Together, these two make the logits' standard deviation about one.
    list.push(("last_conv.feature_mix_layer.conv.conv.weight".to_owned(), vec![HEAD[2], HEAD[1], 1, 1], fan_in(HEAD[1], 2.0)));
    list.push(("classifier.linear.linear.weight".to_owned(), vec![CLASSES, HEAD[2]], fan_in(HEAD[2], 2.5)));
    list.push(("classifier.linear.linear.bias".to_owned(), vec![CLASSES], Fill::Normal(0.2)));
    list
}

fn convolution(list: &mut Vec<Entry>, name: &str, shape: [i64; 4]) {
    list.push((format!("{name}.conv.conv.weight"), shape.to_vec(), fan_in(shape[1..].iter().product(), 1.0)));
}

/// The norm itself, and two more that only tracked the smallest and the biggest child during training.
fn batch_norm(list: &mut Vec<Entry>, name: &str, channels: i64) {
    list.push((format!("{name}.bn.bn.weight"), vec![channels], Fill::Scale));
    list.push((format!("{name}.bn.bn.bias"), vec![channels], Fill::Normal(0.3)));
    for statistics in ["bn", "bn_tracking.0", "bn_tracking.1"] {
        list.push((format!("{name}.bn.{statistics}.running_mean"), vec![channels], Fill::Garbage));
        list.push((format!("{name}.bn.{statistics}.running_var"), vec![channels], Fill::Garbage));
        list.push((format!("{name}.bn.{statistics}.num_batches_tracked"), vec![], Fill::Counter));
    }
}

fn fan_in(inputs: i64, gain: f64) -> Fill {
    Fill::Normal(gain / (inputs as f64).sqrt())
}

/// Runs `draw` with libtorch's random numbers started from `seed`.
pub fn seeded<T>(seed: i64, draw: impl FnOnce() -> T) -> T {
    // The generator belongs to the process, and tests run side by side.
    static GENERATOR: Mutex<()> = Mutex::new(());
    let _alone = GENERATOR.lock().expect("no draw panics");
    tch::manual_seed(seed);
    draw()
}

/// A checkpoint of such contents.
pub fn random(seed: i64) -> BTreeMap<String, Tensor> {
    let float = (Kind::Float, Device::Cpu);
    let fill = |(name, shape, fill): Entry| {
        let tensor = match fill {
            Fill::Normal(deviation) => Tensor::randn(shape, float) * deviation,
            Fill::Scale => Tensor::rand(shape, float) + 0.5,
            Fill::Garbage => Tensor::randn(shape, float) * 1000.0,
            Fill::Counter => Tensor::randint(1 << 40, shape, (Kind::Int64, Device::Cpu)),
        };
        (name, tensor)
    };
    seeded(seed, || entries().into_iter().map(fill).collect())
}

/// `weights` in the order of the file and with the prefix that training on several devices left behind.
pub fn published(weights: &BTreeMap<String, Tensor>) -> Vec<(String, Tensor)> {
    let tensor = |name: &str| weights[name].shallow_clone();
    entries().into_iter().map(|(name, ..)| (format!("module.{name}"), tensor(&name))).collect()
}

/// Writes what `torch.save({'epoch': 3, 'state_dict': state_dict}, path)` does.
pub fn save(path: &Path, state_dict: &[(String, Tensor)]) {
    archive(path, &pickle(state_dict), state_dict.iter().map(|(_, tensor)| bytes(tensor)));
}

/// A zip of `pickle` and of the storages that it names by their number.
pub fn archive(path: &Path, pickle: &[u8], storages: impl Iterator<Item = Vec<u8>>) {
    let mut zip = ZipWriter::new(File::create(path).expect("creates"));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).with_alignment(64);
    let mut record = |name: &str, bytes: &[u8]| {
        zip.start_file(format!("archive/{name}"), options).expect("starts");
        zip.write_all(bytes).expect("writes");
    };
    record("data.pkl", pickle);
    for (number, storage) in storages.enumerate() {
        record(&format!("data/{number}"), &storage);
    }
    record("version", b"3\n");
    zip.finish().expect("finishes");
}

fn bytes(tensor: &Tensor) -> Vec<u8> {
    let flat = tensor.contiguous().reshape([-1]).view_dtype(Kind::Uint8);
    Vec::try_from(flat).expect("bytes")
}

/// Protocol 2, with objects numbered in the order in which Python's own pickler meets them.
fn pickle(state_dict: &[(String, Tensor)]) -> Vec<u8> {
    let mut out = Pickle::default();
    out.op(b"\x80\x02}").memoize().op(b"(");
    out.text("epoch").integer(3).text("state_dict");
    out.global("collections OrderedDict").op(b")R").memoize();
    // Python's pickler sets at most a thousand items at a time.
    for batch in state_dict.chunks(1000) {
        out.op(b"(");
        for (name, tensor) in batch {
            out.text(name).tensor(tensor);
        }
        out.op(b"u");
    }
    // The dictionary that a module returns carries an attribute: the version of every module, of which the outermost will do.
    out.op(b"}").memoize().text("_metadata").global("collections OrderedDict").op(b")R").memoize();
    out.text("").op(b"}").memoize().text("version").integer(1).op(b"sssbu.");
    out.bytes
}

#[derive(Default)]
struct Pickle {
    bytes: Vec<u8>,
    memoized: u32,
    /// Numbers of what is written once and referred to later.
    known: BTreeMap<String, u32>,
    storages: usize,
}

impl Pickle {
    fn op(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend(bytes);
        self
    }

    fn memoize(&mut self) -> &mut Self {
        let number = self.memoized;
        self.memoized += 1;
        self.numbered([b'q', b'r'], number)
    }

    /// The first of `ops` takes one byte, the second four.
    fn numbered(&mut self, ops: [u8; 2], number: u32) -> &mut Self {
        match u8::try_from(number) {
            Ok(byte) => self.op(&[ops[0], byte]),
            Err(_) => self.op(&[ops[1]]).op(&number.to_le_bytes()),
        }
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.op(b"X").op(&(text.len() as u32).to_le_bytes()).op(text.as_bytes()).memoize()
    }

    /// `write`s an object the first time, and refers to it from then on.
    fn once(&mut self, key: &str, write: impl FnOnce(&mut Self)) -> &mut Self {
        if let Some(&number) = self.known.get(key) {
            return self.numbered([b'h', b'j'], number);
        }
        self.known.insert(key.to_owned(), self.memoized);
        write(self);
        self
    }

    /// `name` is a module and what it holds, with a space between.
    fn global(&mut self, name: &str) -> &mut Self {
        let lines = name.replace(' ', "\n");
        self.once(name, |out| _ = out.op(b"c").op(lines.as_bytes()).op(b"\n").memoize())
    }

    fn constant(&mut self, text: &str) -> &mut Self {
        self.once(text, |out| _ = out.text(text))
    }

    fn integer(&mut self, value: i64) -> &mut Self {
        match (u8::try_from(value), u16::try_from(value)) {
            (Ok(byte), _) => self.op(&[b'K', byte]),
            (_, Ok(word)) => self.op(b"M").op(&word.to_le_bytes()),
            _ => self.op(b"J").op(&i32::try_from(value).expect("shapes are small").to_le_bytes()),
        }
    }

    fn tuple(&mut self, values: &[i64]) -> &mut Self {
        let close: &[u8] = match values.len() {
            0 => return self.op(b")"),
            1 => b"\x85",
            2 => b"\x86",
            3 => b"\x87",
            _ => b"t",
        };
        if values.len() > 3 {
            self.op(b"(");
        }
        for &value in values {
            self.integer(value);
        }
        self.op(close).memoize()
    }

    /// A tensor that has the next storage to itself.
    fn tensor(&mut self, tensor: &Tensor) -> &mut Self {
        let storage = if tensor.kind() == Kind::Int64 { "torch LongStorage" } else { "torch FloatStorage" };
        let number = self.storages.to_string();
        self.storages += 1;
        self.global("torch._utils _rebuild_tensor_v2").op(b"((").constant("storage").global(storage).text(&number);
        self.constant("cpu").integer(tensor.numel() as i64).op(b"t").memoize().op(b"Q").integer(0);
        self.tuple(&tensor.size()).tuple(&tensor.contiguous().stride()).op(b"\x89");
        self.global("collections OrderedDict").op(b")R").memoize().op(b"t").memoize().op(b"R").memoize()
    }
}
