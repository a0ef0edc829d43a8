//! Text to token ids, and token ids to the sequences a model reads.

mod assemble;
mod encoder;
mod load;
mod pool;
mod template;
mod turns;

pub use assemble::{
    Form, Item, Marked, Mask, Roles, Rules, TextIds, Tokenized, Wrapping, assemble,
};
pub use encoder::Encoder;
pub use load::{Loaded, load};
pub use pool::Pool;
pub use template::Template;
