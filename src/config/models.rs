//! Which models a server has: `--model`, given once or more, or the `[[models]]` of the file.

use serde::{Deserialize, Deserializer};

use super::{
    ConfigError, DEFAULT_SCORE_CACHE_BYTES, Dtype, Machine, ModelConfig, ModelSettings,
    ServeSettings, at_least,
};

/// One `[[models]]` of the file; what it leaves open is as for the whole server.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelEntry {
    /// In replies [default: the model's own].
    pub name: Option<String>,
    /// What `--model` would say.
    pub source: Option<String>,
    pub revision: Option<String>,
    pub aliases: Vec<String>,
    pub dtype: Option<Dtype>,
    pub late_interaction: Option<bool>,
    pub max_batch_tokens: Option<usize>,
    pub max_length: Option<usize>,
    pub max_backlog_tokens: Option<usize>,
    pub score_cache_bytes: Option<usize>,
    /// In the place of a source.
    pub cascade: Option<CascadeEntry>,
}

/// Two other models by name: the first scores all documents, the second the best `k` of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CascadeEntry {
    pub first: String,
    pub second: String,
    #[serde(default = "default_k")]
    pub k: usize,
}

/// As many as most pipelines read of a first stage.
fn default_k() -> usize {
    50
}

/// A model of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedModel {
    pub name: Option<String>,
    pub aliases: Vec<String>,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Files {
        model: ModelConfig,
        /// `None`: by the device's measured speed.
        max_backlog_tokens: Option<usize>,
        score_cache_bytes: usize,
    },
    Cascade(CascadeEntry),
}

/// More than one process is good for, and what bounds the `model` labels of the metrics.
pub const MAX_MODELS: usize = 64;

/// The models in order; the first is the default. `--model` wins over the file's list.
pub(super) fn served(
    settings: &ModelSettings,
    serve: &ServeSettings,
    entries: Vec<ModelEntry>,
    machine: Machine,
) -> Result<Vec<ServedModel>, ConfigError> {
    let flags = settings.model.as_deref().unwrap_or_default();
    let mut entries = match flags {
        [] if entries.is_empty() => vec![ModelEntry::of_flag("default")],
        [] => entries,
        flags => flags.iter().map(|flag| ModelEntry::of_flag(flag)).collect(),
    };
    if entries.len() > MAX_MODELS {
        let message = format!("{} models; at most {MAX_MODELS}", entries.len());
        return Err(ConfigError::new("models", message));
    }
    only_for_one(settings, serve, &mut entries)?;
    let models = entries.into_iter().map(|entry| entry.check(settings, serve, machine));
    let models = models.collect::<Result<Vec<_>, _>>()?;
    check_cascades(&models)?;
    Ok(models)
}

/// What names no model of its own is the first's, so there may not be others.
fn only_for_one(
    settings: &ModelSettings,
    serve: &ServeSettings,
    entries: &mut [ModelEntry],
) -> Result<(), ConfigError> {
    let is_alone = entries.len() == 1;
    let first = &mut entries[0];
    let of_first = |setting: &str, is_free: bool| {
        if is_alone && is_free {
            return Ok(());
        }
        let message =
            "is for one model; with several, or one with a name, write it into [[models]]";
        Err(ConfigError::new(setting, message))
    };
    if let Some(revision) = &settings.revision {
        of_first("revision", first.revision.is_none())?;
        first.revision = Some(revision.clone());
    }
    if let Some(name) = &serve.served_model_name {
        of_first("served-model-name", first.name.is_none())?;
        first.name = Some(name.clone());
    }
    if let Some(aliases) = &serve.aliases {
        of_first("alias", first.aliases.is_empty())?;
        first.aliases.clone_from(aliases);
    }
    Ok(())
}

impl ModelEntry {
    /// `SOURCE` or `NAME=SOURCE`. A path or a revision may have an equals sign of its own.
    fn of_flag(flag: &str) -> Self {
        let is_name = |name: &str| {
            let is_path = name.starts_with(['.', '/', '~']);
            !name.is_empty() && !is_path && !name.contains(['@', ' '])
        };
        match flag.split_once('=').filter(|(name, _)| is_name(name)) {
            Some((name, source)) => {
                let (name, source) = (Some(name.to_owned()), Some(source.to_owned()));
                Self { name, source, ..Self::default() }
            }
            None => Self { source: Some(flag.to_owned()), ..Self::default() },
        }
    }

    fn check(
        self,
        settings: &ModelSettings,
        serve: &ServeSettings,
        machine: Machine,
    ) -> Result<ServedModel, ConfigError> {
        let shown = self.name.clone().or_else(|| self.source.clone()).unwrap_or_default();
        let wrong = |message: &str| ConfigError::new("models", format!("'{shown}': {message}"));
        let kind = match (self.source, self.cascade) {
            (Some(source), None) => Kind::Files {
                model: ModelConfig::new(
                    ModelSettings {
                        model: Some(vec![source]),
                        revision: self.revision,
                        dtype: self.dtype.or(settings.dtype),
                        late_interaction: self.late_interaction.or(settings.late_interaction),
                        max_batch_tokens: self.max_batch_tokens.or(settings.max_batch_tokens),
                        max_length: self.max_length.or(settings.max_length),
                        ..settings.clone()
                    },
                    machine,
                )?,
                max_backlog_tokens: self.max_backlog_tokens.or(serve.max_backlog_tokens),
                score_cache_bytes: self
                    .score_cache_bytes
                    .or(serve.score_cache_bytes)
                    .unwrap_or(DEFAULT_SCORE_CACHE_BYTES),
            },
            (None, Some(cascade)) => {
                if self.name.is_none() {
                    return Err(wrong("a cascade needs a name"));
                }
                at_least(1, "k", cascade.k)?;
                Kind::Cascade(cascade)
            }
            _ => return Err(wrong("needs either a source or a cascade")),
        };
        Ok(ServedModel { name: self.name, aliases: self.aliases, kind })
    }
}

/// Both parts of a cascade are models with a name in the same list.
fn check_cascades(models: &[ServedModel]) -> Result<(), ConfigError> {
    for model in models {
        let Kind::Cascade(CascadeEntry { first, second, .. }) = &model.kind else { continue };
        let name = model.name.as_deref().unwrap_or_default();
        let wrong =
            |message: String| Err(ConfigError::new("models", format!("'{name}': {message}")));
        if first == second {
            return wrong("the second model is the first".into());
        }
        for part in [first, second] {
            let is_part = |other: &&ServedModel| other.name.as_ref() == Some(part);
            match models.iter().find(is_part).map(|other| &other.kind) {
                Some(Kind::Files { .. }) => {}
                Some(Kind::Cascade(_)) => return wrong(format!("'{part}' is a cascade itself")),
                None => return wrong(format!("no entry has the name '{part}'")),
            }
        }
    }
    Ok(())
}

/// A string, or a list of them.
pub(super) fn one_or_many<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(Option::deserialize(from)?.map(|value| match value {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    }))
}

#[cfg(test)]
mod tests {
    use super::super::{Config, parse_file};
    use super::*;

    const MACHINE: Machine =
        Machine { threads: 2, has_gpu: false, memory_bytes: 1 << 30, is_shared: false };

    fn models(toml: &str) -> Result<Vec<ServedModel>, ConfigError> {
        let file = parse_file(toml).map_err(|message| ConfigError::new("file", message))?;
        Config::new(&file.model, file.serve, file.models, MACHINE).map(|config| config.models)
    }

    fn source(model: &ServedModel) -> &str {
        match &model.kind {
            Kind::Files { model, .. } => &model.model,
            Kind::Cascade(_) => "",
        }
    }

    #[test]
    fn each_model_has_its_own_and_the_rest_of_the_server() {
        let models = models(
            r#"
            dtype = "f32"
            max_backlog_tokens = 900
            [[models]]
            source = "default"
            [[models]]
            name = "large"
            aliases = ["rerank-v3.5"]
            source = "org/large"
            revision = "v2"
            dtype = "bf16"
            max_batch_tokens = 8192
            "#,
        )
        .unwrap();
        assert_eq!((source(&models[0]), source(&models[1])), ("default", "org/large"));
        let Kind::Files { model, max_backlog_tokens, .. } = &models[1].kind else { panic!() };
        assert_eq!((model.dtype, model.max_batch_tokens), (Dtype::Bf16, 8192));
        assert_eq!((model.revision.as_deref(), *max_backlog_tokens), (Some("v2"), Some(900)));
        let Kind::Files { model, .. } = &models[0].kind else { panic!() };
        assert_eq!((model.dtype, model.max_batch_tokens), (Dtype::F32, 2048));
    }

    #[test]
    fn tenants_who_share_a_device_get_smaller_batches_unless_told_otherwise() {
        let tokens = |toml: &str| match &models(toml).unwrap()[0].kind {
            Kind::Files { model, .. } => model.max_batch_tokens,
            Kind::Cascade(_) => 0,
        };
        assert_eq!(tokens("threads = 4"), 4096);
        assert_eq!(tokens("threads = 4\nkeys_file = 'keys.toml'"), 2048);
        assert_eq!(tokens("threads = 1\nkeys_file = 'keys.toml'"), 1024);
        assert_eq!(tokens("keys_file = 'keys.toml'\nmax_batch_tokens = 3000"), 3000);
    }

    #[test]
    fn a_flag_may_name_its_model() {
        for (flag, name, from) in [
            ("default", None, "default"),
            ("small=./m", Some("small"), "./m"),
            ("rerank-v3.5=org/name@v1", Some("rerank-v3.5"), "org/name@v1"),
            ("org/name@a=b", None, "org/name@a=b"),
            ("./a=b", None, "./a=b"),
        ] {
            let entry = ModelEntry::of_flag(flag);
            assert_eq!((entry.name.as_deref(), entry.source.as_deref()), (name, Some(from)));
        }
        let one = models("model = 'a/b'").unwrap();
        let two = models("model = ['x=a/b', 'c/d']").unwrap();
        assert_eq!((one.len(), two.len(), source(&two[0])), (1, 2, "a/b"));
    }

    #[test]
    fn what_cannot_be_meant_is_an_error_that_names_the_model() {
        for (toml, part) in [
            ("[[models]]\nname = 'x'", "'x': needs either"),
            ("[[models]]\nsource = 'a/b'\ncolour = 1", "colour"),
            ("alias = 1\n[[models]]\nsource = 'a/b'", "alias"),
            ("aliases = ['r']\nmodel = ['a/b', 'c/d']", "several"),
            ("[[models]]\ncascade = {first = 'a', second = 'b'}", "needs a name"),
            (
                "[[models]]\nname = 'x'\ncascade = {first = 'a', second = 'b'}",
                "no entry has the name 'a'",
            ),
            ("[[models]]\nname = 'x'\ncascade = {first = 'a', second = 'a'}", "the first"),
            ("[[models]]\nname = 'x'\ncascade = {first = 'x', second = 'y'}", "a cascade itself"),
            ("[[models]]\nname = 'x'\ncascade = {first = 'a', second = 'b', k = 0}", "k: 0"),
        ] {
            let error = models(toml).unwrap_err().to_string();
            assert!(error.contains(part), "{toml}: {error}");
        }
    }
}
