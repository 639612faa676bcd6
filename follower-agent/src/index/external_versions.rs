//! Documents that the leader's users give versions of their own (`version_type=external`).
//!
//! A follower index has other versions: its documents' are made of the leader's sequence numbers,
//! which alone order what has happened to a document, deletions included. Writes that go on with
//! the users' own versions after a promotion are refused as stale. What a record says of a version
//! does not tell whose it is, unless it is higher than the operations that the shard has had can
//! have made it: that is said in the status, and when the index is promoted.

use shardline_common::control::ExternalVersions;
use shardline_common::types::ShardId;
use tracing::warn;

use super::followed_copy::FollowedCopy;

impl FollowedCopy {
    /// Writes down what its shards have seen, once.
    pub(crate) async fn tell_external_versions(&self) {
        let table = &self.context.follower_table;
        let seen = (0..)
            .map(ShardId)
            .zip(&self.progress.shards)
            .find_map(|(shard, progress)| Some((shard, progress.external_versions.first()?)));
        let Some((shard, example)) = seen else { return };
        let key = ExternalVersions::key_of(&self.cluster, &self.follower.name);
        let known: Option<ExternalVersions> = table.get(&key);
        if known.is_some_and(|known| known.subscription == self.subscription) {
            return;
        }
        warn!(index = %self.follower.name, %shard, id = example.id, version = example.version,
              "users give documents versions of their own: after a promotion the index refuses \
               writes that go on with them");
        let entry = ExternalVersions {
            follower_cluster: self.cluster.clone(),
            follower_index: self.follower.name.clone(),
            subscription: self.subscription.clone(),
            shard,
            example,
        };
        if let Err(error) = table.publish(&entry).await {
            let index = &self.follower.name;
            warn!(%index, %error, "it could not be written down; trying again");
        }
    }
}
