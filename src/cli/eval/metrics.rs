//! nDCG@10, MRR@10 and P@1 of one query, as `trec_eval` and `ir-measures` define them.

use serde::Serialize;

/// Documents of a ranking that count.
const DEPTH: usize = 10;

/// The figures of one query, or their mean, or the change between two means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Figures {
    #[serde(rename = "ndcg@10")]
    pub(super) ndcg: f64,
    #[serde(rename = "mrr@10")]
    pub(super) mrr: f64,
    #[serde(rename = "p@1")]
    pub(super) p1: f64,
}

/// What the judgements say of one query as a whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ideal {
    /// Of all judged documents, also those the first stage did not find.
    dcg: f64,
    /// The grade from which MRR and P@1 count a document as relevant; at least 1.
    min_relevant: i32,
}

impl Ideal {
    pub(super) fn new(mut grades: Vec<i32>, min_relevant: i32) -> Self {
        grades.sort_unstable_by(|a, b| b.cmp(a));
        Self { dcg: dcg(grades), min_relevant }
    }

    /// The figures of a ranking, given as the grades of its documents, best first; a document without a
    /// judgement has grade 0. A query without relevant documents has 0 in everything, and counts.
    pub(super) fn figures(&self, ranking: impl Iterator<Item = i32> + Clone) -> Figures {
        let first =
            ranking.clone().take(DEPTH).position(|grade| grade >= self.min_relevant).map(|i| i + 1);
        Figures {
            ndcg: if self.dcg > 0.0 { dcg(ranking) / self.dcg } else { 0.0 },
            mrr: first.map_or(0.0, |rank| 1.0 / rank as f64),
            p1: if first == Some(1) { 1.0 } else { 0.0 },
        }
    }
}

/// The gain is the grade itself, not 2^grade - 1, and what is worse than irrelevant gains nothing.
fn dcg(ranking: impl IntoIterator<Item = i32>) -> f64 {
    let gains = (1..=DEPTH).zip(ranking);
    gains.map(|(rank, grade)| f64::from(grade.max(0)) / (rank as f64 + 1.0).log2()).sum()
}

impl Figures {
    /// 0 of nothing.
    pub(super) fn mean<'a>(of: impl ExactSizeIterator<Item = &'a Self>) -> Self {
        let scale = 1.0 / of.len().max(1) as f64;
        let sum = of.fold(Self::default(), |sum, one| sum.with(one, |a, b| a + b));
        sum.with(&sum, |a, _| a * scale)
    }

    pub(super) fn minus(&self, other: &Self) -> Self {
        self.with(other, |a, b| a - b)
    }

    fn with(&self, other: &Self, f: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            ndcg: f(self.ndcg, other.ndcg),
            mrr: f(self.mrr, other.mrr),
            p1: f(self.p1, other.p1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(judged: &[i32], min_relevant: i32, ranking: &[i32]) -> Figures {
        Ideal::new(judged.to_vec(), min_relevant).figures(ranking.iter().copied())
    }

    fn assert_close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} {b}");
    }

    #[test]
    fn the_gain_is_the_grade_and_the_discount_log2() {
        // 2/log2(2) + 0/log2(3) + 1/log2(4) = 2.5, over 2 + 1/log2(3).
        let found = figures(&[1, 2], 1, &[2, 0, 1]);
        assert_close(found.ndcg, 2.5 / (2.0 + 1.0 / 3f64.log2()));
        assert_close(found.mrr, 1.0);
        assert_close(found.p1, 1.0);
    }

    #[test]
    fn relevant_documents_that_were_not_found_count_in_the_ideal() {
        let found = figures(&[1, 1], 1, &[0, 1]);
        assert_close(found.ndcg, (1.0 / 3f64.log2()) / (1.0 + 1.0 / 3f64.log2()));
        assert_close(found.mrr, 0.5);
        assert_close(found.p1, 0.0);
    }

    #[test]
    fn only_the_first_ten_count_also_in_the_ideal() {
        let mut late = vec![0; 10];
        late.push(1);
        assert_eq!(figures(&[1], 1, &late), Figures::default());
        let (many, ten) = (vec![1; 30], vec![1; 10]);
        assert_close(figures(&many, 1, &ten).ndcg, 1.0);
    }

    #[test]
    fn a_grade_below_the_relevant_one_gains_but_is_no_first_hit() {
        let found = figures(&[1, 3], 2, &[1, 3]);
        assert_close(found.ndcg, (1.0 + 3.0 / 3f64.log2()) / (3.0 + 1.0 / 3f64.log2()));
        assert_close(found.mrr, 0.5);
        assert_close(found.p1, 0.0);
    }

    #[test]
    fn worse_than_irrelevant_gains_nothing() {
        assert_close(figures(&[1, -1], 1, &[-1, 1]).ndcg, 1.0 / 3f64.log2());
    }

    #[test]
    fn nothing_relevant_or_nothing_found_is_zero() {
        assert_eq!(figures(&[0, -1], 1, &[0, 0]), Figures::default());
        assert_eq!(figures(&[1], 1, &[]), Figures::default());
    }
}
