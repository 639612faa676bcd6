//! Which reason an error is for a shard that waits.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use shardline_common::clock::now_ms;
use shardline_common::kafka::{ControlError, TopicError};
use shardline_common::record::RecordError;
use shardline_common::scan::ScanError;
use shardline_common::standstill::{Cause, StandstillReason};
use shardline_common::types::ShardId;

use super::error::ShardError;
use super::ports::ShardPorts;
use crate::membership::GroupError;
use crate::progress::{Retries, Retry, Source};
use crate::read::StreamError;
use crate::write::ApplyError;

impl ShardError {
    /// Why a shard waits that met it.
    pub(crate) fn standstill(&self) -> StandstillReason {
        StandstillReason::new(self.cause(), now_ms(), self.to_string())
    }

    pub(crate) fn cause(&self) -> Cause {
        match self {
            Self::Stream(error) => of_stream(error),
            Self::Topic(error) => of_topic(error),
            Self::Metadata(error)
            | Self::Shards(error)
            | Self::Apply(ApplyError::OpenSearch(error))
            | Self::Scan(ScanError::OpenSearch(error)) => error.cause(),
            Self::Checkpoint(_) => Cause::CheckpointStore,
            Self::Apply(ApplyError::IndexGone) | Self::IndexGone(_) => Cause::FollowerIndexGone,
            Self::Control(error) => of_control(error),
            Self::Group(GroupError::Kafka { source, .. }) => of_kafka(source),
            Self::Group(GroupError::Cancelled) => Cause::OtherAgent,
            _ => Cause::Other,
        }
    }
}

/// After a failed attempt: what comes next. From the second on, the shard's progress says why it
/// waits.
pub(super) fn failed(
    index: &impl ShardPorts,
    shard: ShardId,
    retries: &mut Retries,
    error: &ShardError,
) -> Retry {
    let retry = retries.failed(error);
    if retry.again {
        let reason = error.standstill();
        index
            .progress(shard)
            .set_standing(Source::Reading, Some(reason));
    }
    retry
}

fn of_stream(error: &StreamError) -> Cause {
    match error {
        StreamError::Kafka { source, .. } => of_kafka(source),
        StreamError::Record { source, .. } => of_record(source),
        StreamError::PositionLost { .. } | StreamError::Skipped { .. } => Cause::Stream,
    }
}

fn of_topic(error: &TopicError) -> Cause {
    match error {
        TopicError::Failed { source, .. } => of_kafka(source),
        TopicError::Refused { code, .. } => of_code(*code),
        TopicError::NoBroker { source, .. } => source.code.map_or(Cause::KafkaAway, of_code),
        TopicError::Record { source, .. } => of_record(source),
        TopicError::Cancelled => Cause::KafkaAway,
    }
}

/// What an error of a control topic says.
pub(crate) fn of_control(error: &ControlError) -> Cause {
    match error {
        ControlError::Topic(error) => of_topic(error),
        ControlError::Kafka { source, .. } => of_kafka(source),
        ControlError::Timeout { .. } => Cause::KafkaAway,
        _ => Cause::OtherAgent,
    }
}

fn of_record(error: &RecordError) -> Cause {
    match error {
        RecordError::UnknownFormat(_) => Cause::NewerBuild,
        _ => Cause::Stream,
    }
}

fn of_kafka(error: &KafkaError) -> Cause {
    error.rdkafka_error_code().map_or(Cause::KafkaAway, of_code)
}

fn of_code(code: RDKafkaErrorCode) -> Cause {
    use RDKafkaErrorCode as Code;
    match code {
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
            Cause::TopicMissing
        }
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::SaslAuthenticationFailed
        | Code::Authentication => Cause::KafkaDenied,
        Code::AutoOffsetReset | Code::OffsetOutOfRange => Cause::Stream,
        _ => Cause::KafkaAway,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_kafka_have_a_cause_each() {
        let of = |code| of_kafka(&KafkaError::MessageConsumption(code));
        assert_eq!(of(RDKafkaErrorCode::UnknownPartition), Cause::TopicMissing);
        assert_eq!(
            of(RDKafkaErrorCode::TopicAuthorizationFailed),
            Cause::KafkaDenied
        );
        assert_eq!(
            of(RDKafkaErrorCode::BrokerTransportFailure),
            Cause::KafkaAway
        );
    }
}
