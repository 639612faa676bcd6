//! The code that every operation passes: reading the translog, records to and from Kafka's form,
//! bulk requests, and following sequence numbers. Throughput on one core.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::path::Path;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use follower_agent::{Batch, Spread, Target, Tracker, bulk_body};
use leader_agent::CaptureConfig;
use leader_agent::GenerationFile;
use rdkafka::message::Headers;
use shardline_common::record::{Body, Operation, OperationKind, Record, packs};
use shardline_common::types::{Epoch, Generation, PrimaryTerm, SeqNo, ShardId};

const OPERATIONS: usize = 5_000;

/// About 300 bytes of JSON.
fn source(number: usize) -> String {
    let message = "request served in time, cache miss for customer, retrying upstream ".repeat(3);
    format!(
        "{{\"@timestamp\":1790000000000,\"service\":\"checkout\",\"status\":{},\"message\":\"{message}\"}}",
        number % 600
    )
}

fn kind(id: usize, number: usize) -> OperationKind {
    OperationKind::Index {
        id: format!("w0-{id}"),
        source: Bytes::from(source(number)),
        routing: None,
        version: 1,
    }
}

fn record(number: usize) -> Record {
    let operation = Operation {
        primary_term: PrimaryTerm(1),
        kind: kind(number, number),
    };
    Record {
        seq_no: SeqNo(number as i64),
        timestamp_ms: 1_790_000_000_000,
        body: Body::Operation(operation),
    }
}

/// A generation as OpenSearch 3 writes it.
fn write_translog(path: &Path, operations: usize) -> u64 {
    let vint = |bytes: &mut Vec<u8>, mut value: usize| {
        while value >= 0x80 {
            bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
    };
    let mut bytes = 0x3fd7_6c17u32.to_be_bytes().to_vec();
    bytes.push(8);
    bytes.extend(b"translog");
    bytes.extend(3u32.to_be_bytes());
    bytes.extend(22u32.to_be_bytes());
    bytes.extend(b"ibhFku_AQZ2fBjSXIclm_A");
    bytes.extend(1i64.to_be_bytes());
    bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
    for number in 0..operations {
        let (id, source) = (format!("w0-{number}"), source(number));
        let mut body = vec![2, 11];
        vint(&mut body, id.len());
        body.extend(id.as_bytes());
        vint(&mut body, source.len());
        body.extend(source.as_bytes());
        body.push(0);
        for value in [1, -1, number as i64, 1] {
            body.extend(i64::to_be_bytes(value));
        }
        bytes.extend((body.len() as u32 + 4).to_be_bytes());
        bytes.extend(crc_appended(body));
    }
    std::fs::write(path, &bytes).unwrap();
    bytes.len() as u64
}

fn crc_appended(mut body: Vec<u8>) -> Vec<u8> {
    body.extend(crc32fast::hash(&body).to_be_bytes());
    body
}

fn translog(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("translog-1.tlog");
    let length = write_translog(&path, 100_000);
    let mut group = criterion.benchmark_group("translog");
    group.throughput(Throughput::Bytes(length)).sample_size(20);
    group.bench_function("decode 300-byte documents", |bencher| {
        bencher.iter(|| {
            let mut file = GenerationFile::open(&path, Generation(1)).unwrap();
            let mut operations = 0;
            while let Some(operation) = file.next(length).unwrap() {
                black_box(&operation);
                operations += 1;
            }
            assert_eq!(operations, 100_000);
        });
    });
}

fn records(criterion: &mut Criterion) {
    let records: Vec<Record> = (0..OPERATIONS).map(record).collect();
    let mut group = criterion.benchmark_group("record");
    group.throughput(Throughput::Elements(OPERATIONS as u64));
    // One record for each operation, and as the leader agent packs them.
    for (name, most) in [
        ("one by one", 0),
        ("packed", CaptureConfig::default().pack_bytes),
    ] {
        group.bench_function(format!("encode, {name}"), |bencher| {
            bencher.iter(|| {
                for pack in packs(&records, most) {
                    black_box(pack.encode());
                }
            });
        });
        let encoded: Vec<_> = packs(&records, most).map(|pack| pack.encode()).collect();
        group.bench_function(format!("decode, {name}"), |bencher| {
            bencher.iter(|| {
                for record in &encoded {
                    let headers = record
                        .headers
                        .iter()
                        .map(|header| (header.key, header.value));
                    black_box(
                        Record::from_parts(record.key, Some(&record.value), headers).unwrap(),
                    );
                }
            });
        });
    }
}

fn bulk(criterion: &mut Criterion) {
    let spread = Spread {
        number_of_shards: 2,
        routing_num_shards: 1024,
        partition_size: 1,
    };
    let target = Target {
        shard: ShardId(0),
        epoch: Epoch(0),
        spread,
    };
    let mut group = criterion.benchmark_group("bulk");
    group.throughput(Throughput::Elements(OPERATIONS as u64));
    for (name, documents) in [
        ("batch and body, new documents", OPERATIONS),
        ("batch and body, 100 hot documents", 100),
    ] {
        let operations: Vec<OperationKind> = (0..OPERATIONS)
            .map(|number| kind(number % documents, number))
            .collect();
        group.bench_function(name, |bencher| {
            let collect = |operations: Vec<OperationKind>| {
                let mut batch = Batch::default();
                for (number, operation) in operations.into_iter().enumerate() {
                    batch.add(SeqNo(number as i64), operation);
                }
                bulk_body(batch.writes(), &target)
            };
            bencher.iter_batched(|| operations.clone(), collect, BatchSize::LargeInput);
        });
    }
}

fn watermark(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("watermark");
    group.throughput(Throughput::Elements(OPERATIONS as u64));
    group.bench_function("follow sequence numbers", |bencher| {
        bencher.iter(|| {
            let mut tracker = Tracker::after(SeqNo::NONE);
            for number in 0..OPERATIONS as i64 {
                black_box(tracker.operation(black_box(SeqNo(number))).unwrap());
            }
        });
    });
}

criterion_group!(hot_paths, translog, records, bulk, watermark);
criterion_main!(hot_paths);
