//! What an l7mp proxy can be told and what it answers: configuration document, admin requests, status.
//!
//! A document is JSON or YAML text. [`Config::read`] turns it into typed values or into *every*
//! error that it has, each with its path in the document:
//!
//! ```
//! use l7mp_api::Config;
//!
//! let problems = Config::read("listeners: [{name: in, spec: {UDP: {prot: 9001}}, rules: all}]").unwrap_err();
//! let lines: Vec<String> = problems.iter().map(|problem| problem.to_string()).collect();
//! assert_eq!(lines, [
//!     r#"listeners[0].spec.UDP.port: missing"#,
//!     r#"listeners[0].spec.UDP.prot: unknown field; did you mean "port"?"#,
//!     r#"listeners[0].rules: no rule list "all""#,
//! ]);
//! ```
//!
//! The way of a text: `text` (JSON or YAML to a tree) -> `read` (tree to [`config`] types, checks of
//! one object) -> `check` (checks between objects). The way back is `write`, in one canonical spelling.

#![forbid(unsafe_code)]

pub mod config;
pub mod duration;
pub mod limits;
pub mod problem;
pub mod socket;
pub mod status;

mod address;
mod check;
mod path;
mod read;
mod suggest;
mod text;
mod warnings;
mod write;

pub use config::Config;
pub use problem::Problem;
