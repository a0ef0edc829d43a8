//! The architectures with code: one line each.

use super::bert::Original;
use super::config::Config;
use super::deberta::DebertaV2;
use super::decoder::Decoding;
use super::distilbert::DistilBert;
use super::electra::Electra;
use super::gemma::{Gemma, Gemma2};
use super::gte::Gte;
use super::head::{self, Head};
use super::jina::{self, Jina};
use super::late;
use super::llama::Llama;
use super::loader::{Instances, Parts};
use super::modernbert::Modern;
use super::modules;
use super::parameters::Parameters;
use super::prompt;
use super::qwen2::Qwen2;
use super::qwen3::Qwen3;
use super::roberta::Roberta;
use super::scorer::Family;
use super::source::ModelFiles;
use crate::engine::Backend;
use crate::error::ModelError;
use serde_json::Value;

/// A model family before it is loaded.
pub(super) trait Architecture {
    type Model<B: Backend>: Family<B>;

    /// Reads all that the family takes from config.json.
    ///
    /// # Errors
    /// What is wrong with which field.
    fn check(config: &Config) -> Result<(), ModelError>;

    /// # Errors
    /// As for [`Self::check`]; a tensor is missing or damaged, or its shape is not what `config` asks for; or the
    /// device has no memory.
    fn load<B: Backend>(
        parameters: &Parameters<'_, B>,
        config: &Config,
        head: &Head,
    ) -> Result<Self::Model<B>, ModelError>;
}

type MakeHead = fn(&ModelFiles, &Config) -> Result<Head, ModelError>;

/// How an architecture is loaded.
pub(super) struct Entry {
    /// As config.json names it.
    architecture: &'static str,
    model_type: &'static str,
    /// As `auto_map` names the class of the configuration, of a family that has another's architecture.
    config_class: Option<&'static str>,
    pub(super) make_head: MakeHead,
    /// Whether it is a language model, which is asked in words.
    pub(super) is_prompted: bool,
    pub(super) check: fn(&Config) -> Result<(), ModelError>,
    pub(super) instances: fn(&Parts<'_>) -> Result<Instances, ModelError>,
}

const fn entry<A: Architecture>(
    architecture: &'static str,
    model_type: &'static str,
    make_head: MakeHead,
) -> Entry {
    Entry {
        architecture,
        model_type,
        config_class: None,
        make_head,
        is_prompted: false,
        check: A::check,
        instances: |parts| parts.instances::<A>(),
    }
}

const fn prompted<A: Architecture>(
    architecture: &'static str,
    model_type: &'static str,
    make_head: MakeHead,
) -> Entry {
    Entry { is_prompted: true, ..entry::<A>(architecture, model_type, make_head) }
}

const fn jina(architecture: &'static str, make_head: MakeHead) -> Entry {
    let entry = entry::<Jina>(architecture, "xlm-roberta", make_head);
    Entry { config_class: Some(jina::CONFIG_CLASS), ..entry }
}

static FAMILIES: [Entry; 28] = [
    entry::<Original>("BertForSequenceClassification", "bert", classifier),
    entry::<Original>("BertModel", "bert", modules::head),
    entry::<Original>("HF_ColBERT", "bert", late::required_head),
    entry::<Roberta>("RobertaForSequenceClassification", "roberta", classifier),
    entry::<Roberta>("XLMRobertaForSequenceClassification", "xlm-roberta", classifier),
    entry::<Roberta>("XLMRobertaModel", "xlm-roberta", modules::head),
    entry::<Roberta>("CamembertForSequenceClassification", "camembert", classifier),
    jina("XLMRobertaForSequenceClassification", classifier),
    jina("HF_ColBERT", late::required_head),
    entry::<DistilBert>("DistilBertForSequenceClassification", "distilbert", classifier),
    entry::<DistilBert>("DistilBertModel", "distilbert", modules::head),
    entry::<Electra>("ElectraForSequenceClassification", "electra", classifier),
    entry::<DebertaV2>("DebertaV2ForSequenceClassification", "deberta-v2", classifier),
    entry::<DebertaV2>("DebertaV2Model", "deberta-v2", modules::head),
    entry::<Gte>("NewForSequenceClassification", "new", classifier),
    entry::<Gte>("NewModel", "new", modules::head),
    entry::<Modern>("ModernBertForSequenceClassification", "modernbert", classifier),
    entry::<Modern>("ModernBertModel", "modernbert", modules::head),
    prompted::<Decoding<Qwen3>>("Qwen3ForCausalLM", "qwen3", prompt::answers),
    prompted::<Decoding<Qwen3>>("Qwen3ForSequenceClassification", "qwen3", classifier),
    prompted::<Decoding<Qwen2>>("Qwen2ForCausalLM", "qwen2", prompt::answers),
    prompted::<Decoding<Qwen2>>("Qwen2ForSequenceClassification", "qwen2", classifier),
    prompted::<Decoding<Llama>>("LlamaForCausalLM", "llama", prompt::answers),
    prompted::<Decoding<Llama>>("LlamaForSequenceClassification", "llama", classifier),
    prompted::<Decoding<Gemma>>("GemmaForCausalLM", "gemma", prompt::answers),
    prompted::<Decoding<Gemma>>("GemmaForSequenceClassification", "gemma", classifier),
    prompted::<Decoding<Gemma2>>("Gemma2ForCausalLM", "gemma2", prompt::answers),
    prompted::<Decoding<Gemma2>>("Gemma2ForSequenceClassification", "gemma2", classifier),
];

/// The entry of a configuration, whose fields are found to be what the family reads.
///
/// # Errors
/// An architecture without code, or what is wrong with which field.
pub(super) fn find(config: &Config) -> Result<&'static Entry, ModelError> {
    const FILE: &str = "config.json";
    let asked = config.architecture.as_str();
    let class = config.fields.get("auto_map.AutoConfig").and_then(Value::as_str);
    let class = class.and_then(|name| name.rsplit('.').next());
    let of_class = |class| {
        let is_one = |e: &&Entry| e.architecture == asked && e.config_class == class;
        FAMILIES.iter().find(is_one)
    };
    let Some(entry) = of_class(class).or_else(|| of_class(None)) else {
        let plain = FAMILIES.iter().filter(|entry| entry.config_class.is_none());
        let supported = plain.map(|entry| entry.architecture).collect::<Vec<_>>().join(", ");
        let base = asked.strip_suffix("Model").or(asked.strip_suffix("ForMaskedLM"));
        let headed = base.map(|base| format!("{base}ForSequenceClassification"));
        let message = match headed {
            Some(headed) if supported.contains(&headed) => {
                format!("'{asked}' has no head that scores; '{headed}' is supported")
            }
            _ if config.fields.get("auto_map").is_some() => format!(
                "'{asked}' is code that comes with the checkpoint (auto_map), which is not run here; {supported} are supported"
            ),
            _ => format!("'{asked}' is not supported; {supported} are"),
        };
        return Err(ModelError::unsupported(FILE, "architectures", message));
    };
    config.fields.check_is("model_type", entry.model_type)?;
    (entry.check)(config)?;
    Ok(entry)
}

fn classifier(files: &ModelFiles, config: &Config) -> Result<Head, ModelError> {
    head::classifier(files, config, config.labels.clone())
}
