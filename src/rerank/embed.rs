//! Vectors of texts, by the path that scores take: prompts before it, cutting and normalising after.

use std::sync::Arc;

use super::{Found, InFlight, Models, Service, Serving, Work};
use crate::error::Error;
use crate::model::prompts::Prompts;
use crate::request::{Answer, EmbedRequest, EmbedResponse, Inputs, PromptChoice, Stamps};
use crate::tenant::Tenant;
use crate::tokenize::Item;

impl Models {
    /// The model that gives the vectors a request means: the one of its name, or the first that gives any.
    ///
    /// # Errors
    /// There is none yet, none of this name, none that the tenant may use, or it gives no vectors.
    pub fn embedder(
        &self,
        asked: Option<&str>,
        of_tokens: bool,
        tenant: &Tenant,
    ) -> Result<Arc<Serving>, Error> {
        let is_fit = |serving: &Serving| match of_tokens {
            true => serving.gives_token_vectors(),
            false => serving.gives_vectors(),
        };
        let serving = self.resolve_for(asked, tenant, is_fit)?;
        if is_fit(&serving) {
            return Ok(serving);
        }
        let why = match (serving.gives_vectors(), serving.gives_token_vectors()) {
            (true, _) => {
                "gives a text one vector, and its tokens none; --late-interaction gives them some"
            }
            (_, true) => "gives each token a vector, which /embed_all asks for, and a text none",
            _ => "scores pairs of texts and gives no vectors; serve an embedding model for these",
        };
        Err(Error::NotSupported(format!("the model '{}' {why}", serving.facts.name)))
    }

    /// Whether a tenant has models, and they all give vectors.
    pub fn only_embed(&self, tenant: &Tenant) -> bool {
        let usable = self.usable(tenant);
        !usable.is_empty() && usable.iter().all(|serving| serving.gives_vectors())
    }
}

impl Serving {
    pub(super) fn gives_vectors(&self) -> bool {
        self.facts.vectors.is_some()
    }

    fn gives_token_vectors(&self) -> bool {
        self.service().is_some_and(|service| service.late.is_some())
    }

    /// Numbers in the answer to a request, if it can be answered; of tokens, more than those there are.
    pub fn num_values(&self, request: &EmbedRequest) -> usize {
        let width = self.service().map_or(0, |service| service.width);
        let num_vectors = match request.of_tokens {
            true => request.inputs.max_tokens(self.facts.max_length),
            false => request.inputs.len(),
        };
        num_vectors * request.dimensions.unwrap_or(width).min(width)
    }

    /// The vectors of a request's texts; see [`Models::rerank`].
    ///
    /// # Errors
    /// Every kind of [`Error`] that concerns a request that could be read.
    pub async fn embed(
        &self,
        request: EmbedRequest,
        stamps: Stamps,
        tenant: &Tenant,
    ) -> Result<EmbedResponse, Error> {
        let none = || Error::Internal("vectors of a model that gives none".into());
        let response = self.service().ok_or_else(none)?.embed(request, stamps, tenant).await?;
        self.counts.count(&response.tally());
        Ok(response)
    }
}

impl Service {
    /// The vectors of a request's texts, under the same terms as [`Service::rerank`].
    ///
    /// # Errors
    /// Every kind of [`Error`] that concerns a request that could be read.
    async fn embed(
        &self,
        request: EmbedRequest,
        stamps: Stamps,
        tenant: &Tenant,
    ) -> Result<EmbedResponse, Error> {
        let _in_flight = InFlight::begin(&self.host.metrics);
        let dimensions = self.dimensions(&request)?;
        let prompts = self.tokenizers.encoder().prompts();
        let work = Work {
            inputs: prompted(request.inputs, prompts, &request.prompt)?,
            truncation: request.truncation,
            timeout: request.timeout,
            priority: request.priority,
            may_cache: request.may_cache,
            of_tokens: request.of_tokens,
        };
        let done = self.run(work, stamps, tenant).await?;
        // A text is one sequence here, and a sequence one row or one a token.
        let (values, num_vectors) = match &done.found {
            Found::Rows(values) => (values, vec![1; done.items.len()]),
            Found::TokenRows(values) => {
                let items = done.items.iter();
                let seqlen = |item: &Item| done.sequences.seqlen(item.sequences.start);
                (values, items.map(seqlen).collect())
            }
            _ => return Err(Error::Internal("vectors of a model that gives none".into())),
        };
        let rows = values.chunks_exact(self.width).map(|row| &row[..dimensions]);
        let response = EmbedResponse {
            id: request.id,
            vectors: vectors(rows, dimensions, request.normalize),
            dimensions,
            num_vectors,
            truncated_tokens: done.items.iter().map(|item| item.truncated_tokens).collect(),
            prompt_tokens: done.sequences.num_tokens(),
            num_chars: done.num_chars,
            model: self.name.clone(),
            stamps: done.stamps,
        };
        self.answered(&response.tally());
        Ok(response)
    }

    fn dimensions(&self, request: &EmbedRequest) -> Result<usize, Error> {
        match request.dimensions {
            Some(asked) if asked > self.width => {
                let width = self.width;
                let message =
                    format!("dimensions: the vectors of this model have {width}, not {asked}");
                Err(Error::invalid("dimensions", message))
            }
            Some(asked) => Ok(asked),
            None => Ok(self.width),
        }
    }
}

/// The inputs with the chosen prompt before each text. Ids are what their sender made them.
fn prompted(inputs: Inputs, prompts: &Prompts, choice: &PromptChoice) -> Result<Inputs, Error> {
    let before = prompts.choose(choice)?;
    match inputs {
        Inputs::Texts(mut texts) if !before.is_empty() => {
            texts.iter_mut().for_each(|text| text.insert_str(0, before));
            Ok(Inputs::Texts(texts))
        }
        inputs => Ok(inputs),
    }
}

/// The first components of each row, in one list; to length one where asked, what is cut included.
fn vectors<'a>(
    rows: impl ExactSizeIterator<Item = &'a [f32]>,
    dimensions: usize,
    normalize: bool,
) -> Vec<f32> {
    let mut vectors = Vec::with_capacity(rows.len() * dimensions);
    for row in rows {
        let scale = if normalize { scale_to_one(row) } else { 1.0 };
        vectors.extend(row.iter().map(|value| value * scale));
    }
    vectors
}

/// What a vector is multiplied by to have length one; 1 for one without length.
fn scale_to_one(vector: &[f32]) -> f32 {
    // In f64: thousands of squares in f32 would cost the last digits of every component.
    let squares = vector.iter().map(|value| f64::from(*value) * f64::from(*value));
    let length = squares.sum::<f64>().sqrt();
    if length > 0.0 { (1.0 / length) as f32 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_has_length_one_again() {
        let rows = [[3.0, 4.0, 12.0], [0.0, 0.0, 1.0]];
        let cut = vectors(rows.iter().map(|row| &row[..2]), 2, true);
        assert_eq!(cut, [0.6, 0.8, 0.0, 0.0], "and no vector is divided by nothing");
        let whole = vectors(rows.iter().map(|row| &row[..]), 3, true);
        assert!((whole.iter().take(3).map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-6);
        let raw = vectors(rows.iter().map(|row| &row[..2]), 2, false);
        assert_eq!(raw, [3.0, 4.0, 0.0, 0.0]);
    }

    #[test]
    fn the_prompt_stands_before_every_text_and_before_no_ids() {
        let mut prompts = Prompts::default();
        prompts.insert("query", "q: ");
        let texts = Inputs::Texts(vec!["a".into(), String::new()]);
        let choice = PromptChoice::Named("query".into());
        let expected = Inputs::Texts(vec!["q: a".into(), "q: ".into()]);
        assert_eq!(prompted(texts, &prompts, &choice), Ok(expected));
        let ids = Inputs::Tokens(vec![vec![1, 2]]);
        assert_eq!(prompted(ids.clone(), &prompts, &choice), Ok(ids));
    }
}
