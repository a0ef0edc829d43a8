//! The hub's tests once more, and with them those that share the cache with Python's huggingface_hub.
//! RERANKD_PYTHON names a Python that has it.

#[path = "hub.rs"]
mod hub;
#[path = "hub/python.rs"]
mod python;
