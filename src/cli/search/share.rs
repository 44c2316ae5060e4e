//! Which part of a search a machine does, and where it keeps its results.

use crate::search::Share;

/// `2/4`: part 2 of 4.
pub(super) fn parse_share(text: &str) -> Result<Share, String> {
    let parts = text.split_once('/').and_then(|(index, count)| Some((index.parse::<usize>().ok()?, count.parse::<usize>().ok()?)));
    match parts {
        Some((index, count)) if (1..=count).contains(&index) => Ok(Share { index: index - 1, count }),
        _ => Err("write I/N, part I of N, counted from 1".to_owned()),
    }
}

/// The file of the results of a share: those of several, and of other weights, may lie in one directory.
pub(super) fn results_name(weights_sha256: &str, shard: Option<Share>) -> String {
    let weights = weights_sha256.get(..8).unwrap_or(weights_sha256);
    match shard {
        Some(Share { index, count }) => format!("search-{weights}-{}-of-{count}.jsonl", index + 1),
        None => format!("search-{weights}.jsonl"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_counted_from_one() {
        assert_eq!(parse_share("1/3"), Ok(Share { index: 0, count: 3 }));
        assert_eq!(parse_share("3/3"), Ok(Share { index: 2, count: 3 }));
        for wrong in ["0/3", "4/3", "1", "a/b", "1/0", "-1/2"] {
            assert!(parse_share(wrong).is_err(), "{wrong}");
        }
        assert_eq!(results_name("0123456789", parse_share("1/3").ok()), "search-01234567-1-of-3.jsonl");
        assert_eq!(results_name("0123456789", None), "search-01234567.jsonl");
    }
}
