//! The gateway: between applications and AI models, one request at a time.
//!
//! A request walks through these rooms in this order; `pipeline` is the table of contents:
//!
//! | room | question |
//! | --- | --- |
//! | [`door`] | who is at the socket, and how is an answer written |
//! | [`identify`] | which gateway and provider does the path name |
//! | [`auth`] | who is calling |
//! | [`limit`] | may this caller go on now |
//! | [`decode`] | what does the body say |
//! | [`route`] | which targets, in which order, under which settings |
//! | [`cache`] | is the answer known already |
//! | [`attempt`] | try, look, decide: again, next, or done |
//! | [`backend`] | a provider over HTTP, or the engine in this process |
//! | [`tee`] | one answer to the caller, the meter, the record and the cache |
//! | [`record`] | the story as rows |
//!
//! This crate alone knows pingora.

pub mod admin;
pub mod app;
pub mod attempt;
pub mod auth;
pub mod backend;
pub mod cache;
pub mod cli;
pub mod config;
pub mod decode;
pub mod door;
pub mod error;
pub mod exchange;
#[cfg(feature = "local")]
pub mod finetunes;
pub mod identify;
pub mod limit;
#[cfg(feature = "local")]
pub mod models;
pub mod pipeline;
pub mod record;
pub mod redis;
pub mod rest;
pub mod route;
pub mod state;
pub mod tail;
pub mod tee;
pub mod telemetry;
pub mod trace;
