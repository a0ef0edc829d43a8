//! A test collection in memory: the queries that have judgements, with their candidates.

use super::metrics::{Figures, Ideal};

#[derive(Debug)]
pub(super) struct Collection {
    pub(super) name: String,
    pub(super) min_relevant: i32,
    /// In the order of the queries' file.
    pub(super) queries: Vec<Query>,
    /// Texts of all documents that are a candidate of some query.
    pub(super) documents: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Query {
    pub(super) qid: String,
    pub(super) text: String,
    /// In the first stage's order. Empty if it found nothing: the query then counts 0.
    pub(super) candidates: Vec<Judged>,
    pub(super) ideal: Ideal,
}

/// A candidate and how relevant it was judged; 0 if nobody judged it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judged {
    /// In [`Collection::documents`].
    pub(super) document: usize,
    pub(super) grade: i32,
}

impl Query {
    /// The figures of the first stage's order.
    pub(super) fn before(&self) -> Figures {
        self.ideal.figures(self.candidates.iter().map(|candidate| candidate.grade))
    }

    /// The figures of the candidates in the order of their scores. Equal scores keep the first stage's.
    pub(super) fn after(&self, scores: &[f64]) -> Figures {
        let mut order: Vec<usize> = (0..self.candidates.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        self.ideal.figures(order.iter().map(|&i| self.candidates[i].grade))
    }
}

impl Collection {
    pub(super) fn num_pairs(&self) -> usize {
        self.queries.iter().map(|query| query.candidates.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_scores_keep_the_first_stages_order() {
        let candidates = (0..).zip([1, 0, 2]);
        let candidates = candidates.map(|(document, grade)| Judged { document, grade }).collect();
        let ideal = Ideal::new(vec![2, 1, 0], 2);
        let query = Query { qid: String::new(), text: String::new(), candidates, ideal };
        assert_eq!(query.after(&[0.5, 0.5, 0.5]), query.before());
        assert_eq!(query.after(&[0.1, 0.1, 0.2]).p1, 1.0);
        assert_eq!(query.after(&[-0.0, 0.2, 0.1]).mrr, 0.5);
    }
}
