//! What an l7mp proxy can be told and what it answers: configuration document, admin requests, status.

pub mod config;
