//! From logits to the labels that an answer names.

use super::wire::Prediction;

/// The `top_k` most probable of `labels` by the softmax of `logits`, most probable first; equals keep their order.
pub(super) fn top(logits: &[f32], labels: &[String], top_k: usize) -> Vec<Prediction> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponential = |logit: f32| f64::from(logit - highest).exp();
    let sum: f64 = logits.iter().map(|&logit| exponential(logit)).sum();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    let by_logit = |&a: &usize, &b: &usize| logits[b].total_cmp(&logits[a]).then(a.cmp(&b));
    let top_k = top_k.min(order.len());
    // Of a thousand classes, only the few that are named need sorting.
    if top_k < order.len() {
        order.select_nth_unstable_by(top_k, by_logit);
        order.truncate(top_k);
    }
    order.sort_unstable_by(by_logit);
    let predict = |index: usize| {
        let label = labels.get(index).cloned().unwrap_or_default();
        Prediction { index, label, probability: (exponential(logits[index]) / sum) as f32 }
    };
    order.into_iter().map(predict).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("class {index}")).collect()
    }

    #[test]
    fn the_most_probable_come_first() {
        let cases: [(&[f32], usize, &[usize]); 6] = [
            (&[0.0, 2.0, 1.0], 3, &[1, 2, 0]),
            (&[0.0, 2.0, 1.0], 2, &[1, 2]),
            (&[0.0, 2.0, 1.0], 1, &[1]),
            (&[0.0, 2.0, 1.0], 9, &[1, 2, 0]),
            (&[1.0, 1.0, 1.0], 2, &[0, 1]),
            (&[-1e30, 1e30], 1, &[1]),
        ];
        for (logits, top_k, expected) in cases {
            let got: Vec<usize> = top(logits, &labels(logits.len()), top_k).iter().map(|prediction| prediction.index).collect();
            assert_eq!(got, expected, "{logits:?}, {top_k}");
        }
    }

    #[test]
    fn probabilities_are_the_softmax() {
        let got = top(&[1.0_f32.ln(), 3.0_f32.ln(), 6.0_f32.ln()], &labels(3), 3);
        let expected = [(2, 0.6), (1, 0.3), (0, 0.1)];
        for (prediction, (index, probability)) in got.iter().zip(expected) {
            assert_eq!((prediction.index, prediction.label.as_str()), (index, format!("class {index}").as_str()));
            assert!((prediction.probability - probability).abs() < 1e-6, "{prediction:?}");
        }
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        let got = top(&[3e38, -3e38, 0.0], &labels(3), 3);
        assert_eq!(got.iter().map(|prediction| prediction.probability).collect::<Vec<_>>(), [1.0, 0.0, 0.0]);
    }
}
