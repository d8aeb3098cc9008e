//! One binary; one module per behaviour; names are sentences.

mod pair;

mod auth;
mod bad_framing;
mod bad_input;
mod cache;
mod clickhouse_rows;
mod client_gone;
mod commands;
mod dashboards;
mod durability;
mod fallback;
mod faults_before_the_first_byte;
mod faults_in_the_stream;
mod finetunes;
mod finetunes_asked;
mod finetunes_refused;
mod limits;
mod local;
mod local_models;
mod local_tools;
mod local_under_load;
mod logs;
mod operation;
mod passthrough;
mod passthrough_streams;
mod records;
mod sdk;
mod security;
mod slugs;
mod tidy;
mod tls;
mod universal;
mod upgrade;
mod vertex;
mod websocket;
