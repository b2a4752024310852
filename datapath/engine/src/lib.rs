//! How bytes move in l7mp: sockets and buffers on io_uring.
//!
//! One [`Engine`] per worker, in the worker's thread. A turn of the worker is
//!
//! ```text
//!   now = engine.wait(deadline)            one io_uring_enter: submit all of the last turn, wait
//!   while let Some(event) = engine.next_event()
//!       Received, Datagram, ...  -> step each datagram or read, engine.send(frame), engine.release(bytes)
//!   while let Some(command) = forwarder.next_command() { engine.execute(command) }
//! ```
//!
//! The engine knows links by the ids that the forwarder gave them; it never sees a route, and the forwarder never sees
//! a descriptor. A link exists from `Command::Open`, `OpenFlow`, `OpenUnixFlow` or [`Engine::attach`] until
//! [`Event::Closed`], which answers `Command::Close` and nothing else: also after `Failed` and `Broken`.
//!
//! This is the only crate with `unsafe`. What the kernel may read or write lies in boxes and mappings that are not
//! moved or freed while an operation may use them; each module says when that ends. Where a descriptor, a buffer or a
//! slot is used again, the generation in the token of its operations tells late completions apart.

mod address;
mod buffers;
mod cmsg;
mod connect;
mod engine;
mod event;
mod files;
mod links;
mod listeners;
mod outbox;
mod probe;
mod receive;
mod ring;
mod send;
mod settings;
pub mod sockets;
mod stream;
mod token;

pub use buffers::{HEADROOM_BYTES, PoolStats};
pub use engine::{Engine, Waker, now};
pub use event::{Accepted, Event, Received, Source};
pub use listeners::{ListenerKind, ListenerSocket};
pub use probe::{Feature, Features, KERNEL_MIN, StartError, probe};
pub use settings::{BusyPoll, Settings, Stats};
