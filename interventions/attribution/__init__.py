"""Attribution: what patches would do, estimated from gradients, and circuits of edges."""
