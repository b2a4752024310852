//! What happens to a message in l7mp: sessions as rings of links. No I/O, no clock, no unsafe, no threads.
