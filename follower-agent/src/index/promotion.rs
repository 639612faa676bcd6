//! What an index gets when it is followed no more: it is to work as its leader's did.

use serde_json::{Value, json};
use shardline_common::control::{AppliedMetadata, Subscription};
use shardline_common::metadata::SEARCH_PIPELINE;
use shardline_common::opensearch::{OpenSearchError, path_segment};
use tracing::{info, warn};

use super::aliases::settle_at_end;
use super::context::AgentContext;
use super::leniency::give_back_mapping;

/// Gives the index what its leader's has and a follower has not.
pub(crate) async fn promote(
    context: &AgentContext,
    subscription: &Subscription,
) -> Result<(), OpenSearchError> {
    give_back_mapping(context, subscription).await?;
    settle_at_end(context, subscription).await?;
    give_back_search_pipeline(context, subscription).await
}

/// Gives the index its leader's search pipeline where the follower cluster has one of that name.
async fn give_back_search_pipeline(
    context: &AgentContext,
    subscription: &Subscription,
) -> Result<(), OpenSearchError> {
    let index = &subscription.follower_index;
    let applied: Option<AppliedMetadata> = context.applied(subscription);
    let pipeline = applied.and_then(|mut applied| applied.settings.remove(SEARCH_PIPELINE));
    let Some(Value::String(pipeline)) = pipeline else {
        return Ok(());
    };
    if pipeline == "_none" || subscription.settings.contains_key(SEARCH_PIPELINE) {
        return Ok(());
    }
    let path = format!("/_search/pipeline/{}", path_segment(&pipeline));
    match context.opensearch.get::<Value>(&path).await {
        Ok(_) => {}
        Err(error) if error.is_not_found() => {
            warn!(
                %index, pipeline,
                "the leader's searches went through a pipeline that the follower cluster lacks"
            );
            return Ok(());
        }
        Err(error) if error.is_denied() => {
            warn!(%index, pipeline, %error, "the index does not get its leader's search pipeline");
            return Ok(());
        }
        Err(error) => return Err(error),
    }
    let path = format!("/{}/_settings", path_segment(index.as_str()));
    let body = json!({SEARCH_PIPELINE: pipeline});
    let _: Value = context.opensearch.put(&path, &body).await?;
    info!(%index, pipeline, "searches go through the leader's pipeline");
    Ok(())
}
