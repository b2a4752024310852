//! Who may connect, and by which certificates.
