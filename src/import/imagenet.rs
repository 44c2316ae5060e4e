//! ImageNet's thousand classes, in the order of the classifiers: by WordNet id.
//!
//! `imagenet/classes.tsv` holds one line a class: the WordNet id, which names the class's folder, and the class's names.

/// Name of the data set.
pub const NAME: &str = "ImageNet";

/// Number of classes.
pub const CLASSES: usize = 1000;

/// The names of the classes.
#[must_use]
pub fn labels() -> Vec<String> {
    column(1)
}

/// The names of the classes' folders.
#[must_use]
pub fn class_folders() -> Vec<String> {
    column(0)
}

fn column(index: usize) -> Vec<String> {
    let field = |line: &str| line.split('\t').nth(index).unwrap_or_default().to_owned();
    include_str!("imagenet/classes.tsv").lines().map(field).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_thousand_classes_in_order() {
        let (labels, folders) = (labels(), class_folders());
        assert_eq!((labels.len(), folders.len()), (CLASSES, CLASSES));
        assert!(folders.is_sorted() && folders.iter().all(|id| id.len() == 9 && id.starts_with('n')));
        assert_eq!(BTreeSet::from_iter(&labels).len(), CLASSES, "every class has a name of its own");
        for (index, id, label) in [(0, "n01440764", "tench"), (207, "n02099601", "golden retriever"), (999, "n15075141", "toilet tissue")] {
            assert_eq!(folders[index], id);
            assert!(labels[index].starts_with(label), "{index} is {:?}", labels[index]);
        }
    }
}
