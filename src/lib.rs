//! reelfs: a drive for video that lives somewhere else. (The map is written at the end of the first build.)

pub mod assemble;
pub mod cache;
pub mod cancel;
pub mod cli;
pub mod config;
pub mod demo;
pub mod digest;
pub mod drive;
pub mod error;
pub mod fetch;
pub mod fuse;
pub mod metrics;
pub mod origin;
pub mod range;
pub mod read;
pub mod retry;
pub mod store;
pub mod sys;
