//! Opening a model directory: whatever is wrong with it is named, with the file.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bignas::checkpoint::{Draft, GammaInit, Model, Replaces, Tensor, Weights};
use bignas::space::layout;
use common::TestModel;

/// The error of opening `directory`, with its causes.
fn refusal(directory: &Path) -> String {
    let error = Model::open(directory).map(|model| model.calibration_images());
    let error: Box<dyn std::error::Error> = match error {
        Err(error) => error.into(),
        Ok(Err(error)) => error.into(),
        Ok(Ok(_)) => return "it opened".into(),
    };
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        assert!(!text.ends_with(&error.to_string()), "said twice: {text}");
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, serde_json::to_vec(&value).unwrap()).unwrap();
}

/// What training notes of images of which random parts are cut.
fn resized(scale: [f64; 2], ratio: [f64; 2]) -> serde_json::Value {
    serde_json::json!({ "augment": { "crop": { "kind": "resized", "scale": scale, "ratio": ratio }, "flip": true } })
}

#[test]
fn an_intact_directory_opens() {
    assert_eq!(refusal(TestModel::new().path()), "it opened");
}

#[test]
fn every_fault_is_named_with_its_file() {
    type Break = fn(&Path);
    let cases: [(&str, Break, &[&str]); 18] = [
        ("no card", |d| fs::remove_file(d.join("model.json")).unwrap(), &["model.json", "No such file"]),
        ("no weights", |d| fs::remove_file(d.join("weights.safetensors")).unwrap(), &["weights.safetensors", "No such file"]),
        ("no calibration", |d| fs::remove_file(d.join("calibration.safetensors")).unwrap(), &["calibration.safetensors"]),
        ("card is no JSON", |d| fs::write(d.join("model.json"), "{").unwrap(), &["model.json", "line 1"]),
        ("other weights", |d| flip_last_byte(&d.join("weights.safetensors")), &["weights.safetensors", "SHA-256"]),
        ("truncated weights", |d| truncate(&d.join("weights.safetensors")), &["weights.safetensors", "SHA-256"]),
        ("other calibration", |d| flip_last_byte(&d.join("calibration.safetensors")), &["calibration.safetensors", "SHA-256"]),
        ("truncated calibration", |d| truncate(&d.join("calibration.safetensors")), &["calibration.safetensors"]),
        ("unknown field", |d| edit_json(&d.join("model.json"), |v| v["colour"] = 1.into()), &["model.json", "colour"]),
        ("newer format", |d| edit_json(&d.join("model.json"), |v| v["format"] = 9.into()), &["model.json", "format 9"]),
        ("one label too many", |d| edit_json(&d.join("model.json"), |v| push(&mut v["labels"], "extra".into())), &["classifier.bias"]),
        ("folders", |d| edit_json(&d.join("model.json"), |v| v["class_folders"] = vec!["n01"].into()), &["1 class_folders for 10 labels"]),
        (
            "broken space",
            |d| edit_json(&d.join("model.json"), |v| v["space"]["stages"][1]["kernel"] = vec![4].into()),
            &["stages[1].kernel"],
        ),
        (
            "augmentation that falls",
            |d| edit_json(&d.join("model.json"), |v| v["training"] = resized([1.0, 1.0], [1.3333, 0.75])),
            &["model.json", "ratio [1.3333, 0.75] must rise"],
        ),
        (
            "unknown augmentation",
            |d| edit_json(&d.join("model.json"), |v| v["training"]["augment"] = "much".into()),
            &["model.json", "training.augment", "much"],
        ),
        ("three channels", |d| edit_json(&d.join("model.json"), |v| three_channels(&mut v["preprocessing"])), &["3 channels"]),
        (
            "child outside",
            |d| edit_json(&d.join("family.json"), |v| v["children"][0]["choices"]["resolution"] = 21.into()),
            &["family.json", "resolution 21"],
        ),
        ("wrong cost", |d| edit_json(&d.join("family.json"), |v| v["children"][0]["macs"] = 1.into()), &["family.json", "macs says 1"]),
    ];
    for (name, break_it, expected) in cases {
        let model = TestModel::new();
        break_it(model.path());
        let message = refusal(model.path());
        for part in expected {
            assert!(message.contains(part), "{name}: {message:?} should contain {part:?}");
        }
    }
}

#[test]
fn statistics_are_those_of_the_whole_family_or_refused() {
    type Break = fn(&Path);
    let cases: [(&str, Break, &[&str]); 5] = [
        ("intact", |_| {}, &["it opened"]),
        ("no file", |d| fs::remove_file(d.join("statistics.safetensors")).unwrap(), &["statistics.safetensors", "No such file"]),
        ("truncated", |d| truncate(&d.join("statistics.safetensors")), &["statistics.safetensors", "SHA-256"]),
        ("a child fewer", drop_a_child, &["statistics.safetensors", "belongs to no child of the family"]),
        ("none at all", |d| fs::remove_file(d.join("family.json")).unwrap(), &["belongs to no child of the family"]),
    ];
    for (name, break_it, expected) in cases {
        let model = TestModel::new();
        model.ship_statistics_instead_of_images();
        break_it(model.path());
        let message = refusal(model.path());
        for part in expected {
            assert!(message.contains(part), "{name}: {message:?} should contain {part:?}");
        }
    }
}

fn drop_a_child(directory: &Path) {
    edit_json(&directory.join("family.json"), |family| drop(family["children"].as_array_mut().unwrap().pop()));
}

/// A family belongs to the weights that it was searched in, and images to the model that ships them.
#[test]
fn a_model_made_anew_keeps_only_what_is_still_true() {
    let made = |weights: &Weights, statistics: bool, images: bool| {
        let model = TestModel::new();
        if statistics {
            model.ship_statistics_instead_of_images();
        }
        let before = model.open();
        let calibration = before.calibration_images().unwrap().filter(|_| images).map(|images| (images, 16, 0));
        let draft = Draft { calibration, ..draft(&before) };
        let created = Model::create(model.path(), draft, weights.clone(), &Replaces::Any).unwrap();
        let opened = model.open();
        let count = |model: &Model| (model.family.members.len(), model.statistics.len());
        assert_eq!(count(&created), count(&opened));
        (count(&opened), model.path().join("calibration.safetensors").exists())
    };
    let same = TestModel::new().open().weights;
    let other = TestModel::with_seed(4).open().weights;
    let cases = [
        (&same, false, true, ((6, 0), true)),
        (&same, false, false, ((6, 0), false)),
        (&same, true, false, ((6, 6), false)),
        (&other, false, true, ((0, 0), true)),
        (&other, true, false, ((0, 0), false)),
    ];
    for (weights, statistics, images, expected) in cases {
        assert_eq!(made(weights, statistics, images), expected, "with statistics: {statistics}, with images: {images}");
    }
}

/// Who was told to replace a model gets one that opens, also where the family that lies there no longer does.
#[test]
fn a_damaged_family_goes_where_it_may() {
    for file in ["family.json", "statistics.safetensors"] {
        let model = TestModel::new();
        model.ship_statistics_instead_of_images();
        let before = model.open();
        truncate(&model.path().join(file));
        let create = |replaces| Model::create(model.path(), draft(&before), before.weights.clone(), &replaces);
        let error = create(Replaces::Own(Some(before.card.weights_sha256.clone()))).unwrap_err();
        assert!(error.to_string().contains(file), "{error}");
        create(Replaces::Any).unwrap();
        let after = model.open();
        assert!(after.family.members.is_empty() && after.statistics.is_empty() && after.weights == before.weights, "{file}");
    }
}

/// Who was not told to replace a model replaces its own at most, and no family.
#[test]
fn a_model_takes_the_place_of_those_alone_that_may_go() {
    let other = || TestModel::with_seed(4).open();
    let without_family = || {
        let model = TestModel::new();
        fs::remove_file(model.path().join("family.json")).unwrap();
        model
    };
    let own = || Some(TestModel::new().open().card.weights_sha256);
    let cases = [
        ("anything", TestModel::new(), other(), Replaces::Any, true),
        ("nothing", TestModel::new(), other(), Replaces::Own(None), false),
        ("of another run", without_family(), other(), Replaces::Own(Some("x".into())), false),
        ("its own, whose family would go", TestModel::new(), other(), Replaces::Own(own()), false),
        ("its own, without a family", without_family(), other(), Replaces::Own(own()), true),
        ("its own once more", TestModel::new(), TestModel::new().open(), Replaces::Own(own()), true),
    ];
    for (what, lies_there, new, replaces, expected) in cases {
        let before = lies_there.open();
        let result = Model::create(lies_there.path(), draft(&new), new.weights.clone(), &replaces);
        match result {
            Ok(model) => assert!(expected && model.weights == new.weights, "{what}"),
            Err(error) => {
                assert!(!expected && error.to_string().contains("holds a model already: name another directory"), "{what}: {error}");
                let after = lies_there.open();
                assert!(after.card == before.card && after.family.members.len() == before.family.members.len(), "{what}");
            }
        }
    }
    let empty = tempfile::tempdir().unwrap();
    Model::create(empty.path(), draft(&other()), other().weights, &Replaces::Own(None)).unwrap();
    fs::write(empty.path().join("model.json"), "{").unwrap();
    let damaged = Model::create(empty.path(), draft(&other()), other().weights, &Replaces::Own(own()));
    assert!(damaged.is_err(), "whose it is cannot be told");
}

/// What a draft of a model like `model` says, without images.
fn draft(model: &Model) -> Draft {
    let card = model.card.clone();
    Draft {
        name: card.name,
        labels: card.labels,
        class_folders: None,
        preprocessing: card.preprocessing,
        space: card.space,
        calibration: None,
        training: None,
    }
}

/// A search that ends after a training has replaced its model must not mix the two.
#[test]
fn nothing_is_written_beside_weights_that_took_the_place_of_these() {
    let model = TestModel::new();
    let mut opened = model.open();
    let other = TestModel::with_seed(4).open();
    Model::create(model.path(), draft(&other), other.weights.clone(), &Replaces::Any).unwrap();
    let family = opened.family.clone();
    let message = opened.write_family(family).unwrap_err().to_string();
    assert!(message.contains("holds another model by now"), "{message}");
    let message = opened.write_statistics(Vec::new(), (String::new(), 0)).unwrap_err().to_string();
    assert!(message.contains("holds another model by now"), "{message}");
    let after = model.open();
    assert!(after.weights == other.weights && after.family.members.is_empty());
}

/// What else the card says by then stays.
#[test]
fn a_family_changes_nothing_else_in_the_card() {
    let model = TestModel::new();
    let mut opened = model.open();
    edit_json(&model.path().join("model.json"), |card| card["name"] = "renamed".into());
    let family = opened.family.clone();
    opened.write_family(family).unwrap();
    assert_eq!((opened.card.name.as_str(), model.open().card.name.as_str()), ("renamed", "renamed"));
    model.ship_statistics_instead_of_images();
    assert_eq!(model.open().card.name, "renamed");
}

/// Pictures that ship with the model before may not fit: that is known before it goes.
#[test]
fn examples_of_other_labels_refuse_a_new_model_in_time() {
    let model = TestModel::new();
    fs::create_dir(model.path().join("examples")).unwrap();
    fs::write(model.path().join("examples/a.png"), "").unwrap();
    fs::write(model.path().join("examples/examples.json"), r#"{"examples": [{"file": "a.png", "label": "class 1"}]}"#).unwrap();
    let before = model.open();
    let draft = Draft { labels: (0..10).map(|class| format!("kind {class}")).collect(), ..draft(&before) };
    let message = Model::create(model.path(), draft, before.weights.clone(), &Replaces::Any).unwrap_err().to_string();
    assert!(message.contains("none of the model's labels"), "{message}");
    assert!(model.open().card == before.card);
}

/// A model that cannot be made leaves the one that lies there as it was.
#[test]
fn what_is_refused_replaces_nothing() {
    let model = TestModel::new();
    let before = model.open();
    let draft = Draft { labels: vec!["all".to_owned()], ..draft(&before) };
    let weights = Weights::random(&layout(&before.card.space, 1), 4, GammaInit::ZeroLast);
    let message = Model::create(model.path(), draft, weights, &Replaces::Any).unwrap_err().to_string();
    assert!(message.contains("1 labels; a model has between 2 and 100000"), "{message}");
    let after = model.open();
    assert!(after.card == before.card && after.weights == before.weights);
    assert!(after.calibration_images().unwrap().is_some());
}

#[test]
fn weights_with_their_checksum_but_of_another_shape_are_refused_by_tensor() {
    let model = TestModel::new();
    edit_json(&model.path().join("model.json"), |v| v["space"]["head"]["channels"] = vec![128, 200].into());
    let message = refusal(model.path());
    assert!(message.contains("head.conv.weight has shape [160, 40, 1, 1], not [200, 40, 1, 1]"), "{message}");
}

/// Neither from a file nor into one: a network with such a value answers nothing, and says so late or never.
#[test]
fn weights_that_are_not_finite_are_refused_by_tensor() {
    let model = TestModel::new();
    let before = model.open();
    let mut tensors: BTreeMap<String, Tensor> = before.weights.iter().map(|(name, tensor)| (name.to_owned(), tensor.clone())).collect();
    tensors.get_mut("classifier.bias").unwrap().data[3] = f32::NAN;
    let weights = Weights::new(tensors);
    let problem = "classifier.bias has 1 values that are not finite";
    let error = Model::create(model.path(), draft(&before), weights.clone(), &Replaces::Any).unwrap_err();
    assert!(error.to_string().contains(problem), "{error}");
    assert_eq!(model.open().weights, before.weights);

    let sha256 = weights.write(&model.path().join("weights.safetensors")).unwrap();
    edit_json(&model.path().join("model.json"), |card| card["weights_sha256"] = sha256.into());
    let message = refusal(model.path());
    assert!(message.contains(problem), "{message}");
}

fn flip_last_byte(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
}

fn truncate(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

fn push(list: &mut serde_json::Value, item: serde_json::Value) {
    list.as_array_mut().unwrap().push(item);
}

fn three_channels(preprocessing: &mut serde_json::Value) {
    preprocessing["mean"] = vec![0.5; 3].into();
    preprocessing["std"] = vec![0.5; 3].into();
}
