//! One binary; one module per behaviour; names are sentences.

mod pair;

mod client_gone;
mod fallback;
mod faults_before_the_first_byte;
mod faults_in_the_stream;
mod logs;
mod passthrough;
mod passthrough_streams;
mod records;
mod universal;
