//! Beside each proxy in Kubernetes: the operator's stream in, the proxy's admin socket out.
//!
//! ```text
//! operator  -- TLS, token -->  operator.rs  -- Wanted -->  proxy.rs  -- PUT -->  admin socket
//!                                   ^                         |  |
//!                                   +------- Standing --------+  +-- what was acknowledged -->  saved.rs
//! ```
//!
//! The proxy's task keeps the proxy at the newest configuration that came, whoever restarts, and says how that
//! stands; the operator's task keeps a stream to the operator that leads, and passes both on. Neither waits for
//! the other: without an operator the proxy has what the file beside its socket says.

#![forbid(unsafe_code)]

pub mod backoff;
pub mod cli;
pub mod files;
pub mod http;
pub mod operator;
pub mod proxy;
pub mod saved;
pub mod state;
