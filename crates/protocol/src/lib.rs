//! Topics, payloads and proofs shared by agent and hub: serde only, no I/O.
