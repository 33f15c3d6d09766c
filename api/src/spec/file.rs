//! The configuration file: TOML by hand, JSON on the wire, read into [`super::ApplicationSpec`].
