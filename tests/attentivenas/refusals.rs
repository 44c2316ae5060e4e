//! Files that are no checkpoint of the supernet: what the program says, and that it leaves nothing behind.

use std::fs;
use std::path::Path;

use crate::{BATCH, bignas, checkpoint, crops, import_arguments, write_images};

/// Written by `torch.save` of PyTorch 2.13.0 itself, as `small.pth.tar`:
/// ```python
/// state_dict = collections.OrderedDict()
/// state_dict["module.first_conv.bn.bn.weight"] = torch.arange(24.0)
/// state_dict["module.first_conv.bn.bn.bias"] = torch.arange(8.0)
/// state_dict["module.first_conv.bn.bn.num_batches_tracked"] = torch.tensor(5)
/// state_dict["module.blocks.99.weight"] = torch.zeros(2, 3)
/// torch.save({"epoch": 3, "state_dict": state_dict}, "small.pth.tar")
/// ```
const SAVED: &[u8] = include_bytes!("small.pth.tar");

/// The message with which `file` is refused; nothing may be left behind.
fn refusal(directory: &Path, file: &str) -> String {
    write_images(&directory.join("crops.safetensors"), &crops(1, BATCH));
    let before = fs::read_dir(directory).expect("lists").count();
    let output = bignas(directory, &import_arguments("attentivenas", file, "model"));
    assert!(!output.status.success(), "{file} was imported");
    assert_eq!(fs::read_dir(directory).expect("lists").count(), before, "something was written");
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn every_wrong_tensor_is_named_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut state_dict = checkpoint::published(&checkpoint::random(9));
    state_dict.retain(|(name, _)| name != "module.blocks.5.mobile_inverted_conv.point_linear.bn.bn.bias");
    let stem = state_dict.iter_mut().find(|(name, _)| name == "module.first_conv.conv.conv.weight").expect("is there");
    let smaller = stem.1.narrow(0, 0, 16).contiguous();
    stem.1 = smaller.shallow_clone();
    state_dict.push(("module.blocks.37.shortcut.conv.conv.weight".to_owned(), smaller));
    checkpoint::save(&directory.path().join("published.pth.tar"), &state_dict);
    let said = refusal(directory.path(), "published.pth.tar");
    for wrong in [
        "blocks.5.mobile_inverted_conv.point_linear.bn.bn.bias [32] is missing",
        "first_conv.conv.conv.weight has shape [16, 3, 3, 3], not [24, 3, 3, 3]",
        "blocks.37.shortcut.conv.conv.weight [16, 3, 3, 3] is unknown",
    ] {
        assert!(said.contains(wrong), "{wrong:?} is not in {said}");
    }
}

#[test]
fn a_pickle_cannot_run_anything() {
    let directory = tempfile::tempdir().expect("a directory");
    let pickle = b"\x80\x02}q\0X\x0a\0\0\0state_dictq\x01cos\nsystem\nq\x02X\x09\0\0\0touch ranq\x03\x85q\x04Rq\x05s.";
    checkpoint::archive(&directory.path().join("published.pth.tar"), pickle, std::iter::empty());
    // Also sees that the directory, where the command would have run, holds nothing new.
    let said = refusal(directory.path(), "published.pth.tar");
    assert!(said.contains("os.system"), "{said}");
}

#[test]
fn a_truncated_file_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("published.pth.tar"), &SAVED[..SAVED.len() - 100]).expect("writes");
    let said = refusal(directory.path(), "published.pth.tar");
    assert!(said.contains("published.pth.tar: neither a whole PyTorch zip archive"), "{said}");
}

#[test]
fn what_pytorch_itself_saves_is_read() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("small.pth.tar"), SAVED).expect("writes");
    let said = refusal(directory.path(), "small.pth.tar");
    for wrong in ["first_conv.bn.bn.bias has shape [8], not [24]", "blocks.99.weight [2, 3] is unknown"] {
        assert!(said.contains(wrong), "{wrong:?} is not in {said}");
    }
    for right in ["first_conv.bn.bn.weight", "first_conv.bn.bn.num_batches_tracked"] {
        assert!(!said.contains(right), "{right:?} is in {said}");
    }
}
