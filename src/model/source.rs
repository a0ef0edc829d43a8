//! Where model files come from: embedded in the binary, a folder, or the Hugging Face hub.
