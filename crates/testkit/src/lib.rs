//! Dev-only: real brokers, a TCP fault proxy, certificates.
