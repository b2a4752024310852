//! The Kubernetes kinds of l7mp: VirtualService, Target, Route and Rule.
