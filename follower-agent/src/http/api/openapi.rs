//! The description of the control API in OpenAPI 3.1. Tests hold it against the routes and against
//! answers.

use serde_json::Value;
use shardline::contract::error::ApiError;

const DOCUMENT: &str = include_str!("openapi.yaml");

pub fn document() -> Result<Value, ApiError> {
    let mut document: Value = serde_yaml_ng::from_str(DOCUMENT).map_err(|error| {
        ApiError::replication(format!("the OpenAPI document cannot be read: {error}"))
    })?;
    document["info"]["version"] = Value::from(env!("CARGO_PKG_VERSION"));
    Ok(document)
}
