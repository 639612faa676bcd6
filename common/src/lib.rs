//! What both agents share: the words of the domain, the record format, and the clients of Kafka and OpenSearch.

pub mod types;
