// One followed index: its shards and why they wait, what was refused, what a comparison found.

import * as actions from './actions.js';
import { Facts, Pager, Table, Trouble, ask, cause, count, duration, html, link, plural, since, time, usePoll, useState } from './frame.js';
import { History, State } from './parts.js';

const SHARDS = 64;
const of = (name, call) => `${actions.CALLS}/${encodeURIComponent(name)}/${call}`;

function Standing({ standstill, where }) {
  if (!standstill) return null;
  return html`<div class="standing"><b>${where}${cause(standstill.cause)}</b> ${since(standstill.since)}<br />${standstill.reason}
    ${standstill.ends_when && html`<br /><span class="dim">Ends when ${standstill.ends_when}.</span>`}</div>`;
}

function copied(shard) {
  const [done, total] = shard.copied;
  return html`<progress max=${Math.max(total, 1)} value=${Math.min(done, total)} aria-label=${`Copy of shard ${shard.shard_id}`}></progress> ${count(done)} of ${count(total)} documents`;
}

function shardNote(shard) {
  const { standstill, resync } = shard;
  return [
    standstill && html`<div key="s"><b class="bad">${cause(standstill.cause)}</b> ${since(standstill.since)}: ${standstill.reason} <span class="dim">Ends when ${standstill.ends_when}.</span></div>`,
    resync && html`<div key="r" class="resync">Resync of ${count(resync.from_seq_no)} to ${count(resync.to_seq_no)}: ${resync.cause}; ${count(resync.documents_received)} of ${plural(resync.documents_total, 'document')}</div>`,
    shard.copied && html`<div key="c">${copied(shard)}</div>`,
    shard.foreign_writes > 0 && html`<div key="f" class="bad">${plural(shard.foreign_writes, 'foreign write')}</div>`,
  ].filter(Boolean);
}

const shardColumns = [
  { title: 'Shard', show: (shard) => shard.shard_id },
  // A shard's numbers begin at 0: its count of operations is one more than the last of them.
  { title: 'Leader has', kind: 'number', show: (shard) => count(shard.leader_checkpoint + 1) },
  { title: 'Applied', kind: 'number', show: (shard) => count(shard.follower_checkpoint + 1) },
  { title: 'Operations', kind: 'number', show: (shard) => count(shard.leader_checkpoint - shard.follower_checkpoint) },
  { title: 'Behind', kind: 'number', show: (shard) => duration(shard.lag_millis) },
  { title: 'Followed by', show: (shard) => (shard.is_here ? 'this agent' : 'another agent') },
  { title: 'Note', show: shardNote },
];

function Shards({ index, onMove }) {
  const title = html`<h3>${plural(index.shards_found, 'shard')}${index.shards_standing > 0 && html`, <span class="bad">${count(index.shards_standing)} standing still</span>`}</h3>`;
  if (index.shards_found === 0) return html`<section aria-label="Shards"><p class="note">Nothing is known of its shards while it is ${index.status.toLowerCase()}.</p></section>`;
  return html`<section aria-label="Shards">${title}
    <${Table} label="Shards" columns=${shardColumns} rows=${index.shards} keyOf=${(shard) => shard.shard_id} />
    <${Pager} found=${index.shards_found} offset=${index.shards_offset} limit=${SHARDS} what="shards" onMove=${onMove} /></section>`;
}

const letterColumns = [
  { title: 'Document', show: (letter) => html`<code>${letter.id}</code>` },
  { title: 'Shard', kind: 'number', show: (letter) => letter.shard_id },
  { title: 'Number', kind: 'number', show: (letter) => count(letter.seq_no) },
  { title: 'Refused', show: (letter) => time(letter.refused_at) },
  { title: 'Why', show: (letter) => `${letter.error_type}: ${letter.reason}` },
];

function Letters({ name, letters, onAct }) {
  const [state, setState] = useState({});
  if (!letters) return null;
  const look = async () => {
    try {
      setState({ list: (await ask(of(name, '_dead_letters'))).dead_letters });
    } catch (error) {
      setState({ error });
    }
  };
  return html`<section class="box" aria-label="Dead letters"><h3><span class="bad">${plural(letters, 'dead letter')}</span></h3>
    <p class="note">Documents that the follower index refuses; it goes on without them.</p>
    <div class="tools"><button type="button" onClick=${look}>Show the documents</button>
      <button type="button" onClick=${() => onAct(actions.retryLetters(name, letters))}>Deliver again…</button></div>
    <${Trouble} error=${state.error} />
    ${state.list && html`<${Table} label="Dead letters" columns=${letterColumns} rows=${state.list.slice(0, 200)} keyOf=${(letter) => letter.id + letter.seq_no} />`}
    ${state.list?.length > 200 && html`<p class="note">and ${count(state.list.length - 200)} more: <code>shardline dead-letters ${name}</code></p>`}</section>`;
}

function Differences({ title, found }) {
  if (!found || found.count === 0) return null;
  return html`<div><b class="bad">${plural(found.count, 'document')} ${title}</b>
    <ul class="plain">${found.ids.slice(0, 20).map((id) => html`<li key=${id}><code>${id}</code></li>`)}</ul>
    ${found.count > 20 && html`<span class="dim">and ${count(found.count - 20)} more</span>`}</div>`;
}

function Verification({ name, onAct }) {
  const { data, error } = usePoll(of(name, '_verify'), 5);
  const isDone = data && ['equal', 'different', 'failed'].includes(data.state);
  return html`<section class="box" aria-label="Verification"><h3>Verification</h3>
    ${!data && html`<p class="note">${error && error.status !== 404 ? error.message : 'It has not been compared with its leader yet.'}</p>`}
    ${data && html`<p><span class=${`state ${data.state}`}>${data.state}</span> <span class="dim">${time(data.start_time)}, ${isDone ? 'took' : 'for'} ${duration(data.running_time)}, ${data.content ? 'contents' : 'versions'}</span></p>
      ${!isDone && html`<progress max=${Math.max(data.shards_total, 1)} value=${data.shards_done} aria-label="Verification"></progress>`}
      <${Facts} of=${[['Shards', `${data.shards_done} of ${data.shards_total}`], ['Documents', count(data.documents)], ['Read', count(data.documents_read)], ['Unclear', data.unclear || undefined], ['Reason', data.reason]]} />
      <${Differences} title="missing here" found=${data.missing} />
      <${Differences} title="that the leader does not have" found=${data.extra} />
      <${Differences} title="different" found=${data.different} />
      ${data.metadata?.length > 0 && html`<b class="bad">Metadata differs</b><ul class="plain">${data.metadata.map((text) => html`<li key=${text}>${text}</li>`)}</ul>`}`}
    <div class="tools"><button type="button" onClick=${() => onAct(actions.verify(name))}>Verify…</button>
      ${data && html`<button type="button" onClick=${() => onAct(actions.forgetVerification(name))}>${isDone ? 'Forget' : 'End'}…</button>`}</div></section>`;
}

function Buttons({ index, name, onAct }) {
  const isPaused = index.status === 'PAUSED' || index.status === 'FAILED';
  return html`<div class="tools" role="group" aria-label="Actions">
    ${isPaused ? html`<button key="resume" type="button" onClick=${() => onAct(actions.resume([name]))}>Resume…</button>` : html`<button key="pause" type="button" onClick=${() => onAct(actions.pause([name]))}>Pause…</button>`}
    <button key="update" type="button" onClick=${() => onAct(actions.update(name, index.settings))}>Settings…</button>
    <button key="stop" type="button" onClick=${() => onAct(actions.stop([name]))}>Stop…</button></div>`;
}

export function Index({ query, change, onAct }) {
  const name = query.get('name') ?? '';
  const offset = Number(query.get('offset') ?? 0);
  const state = usePoll(`page/index?${new URLSearchParams({ name, offset })}`, 2);
  const { data, error } = state;
  if (error?.status === 404) {
    return html`<p><a href=${link('indices')}>All indices</a></p><h2>${name}</h2><p class="note" role="status">It is not followed.</p>`;
  }
  if (!data) return html`<${Trouble} error=${error} /><p class="note">Reading…</p>`;
  const lag = data.lag_details;
  const copy = data.bootstrap_details;
  const settings = Object.entries(data.settings);
  return html`
    <p><a href=${link('indices')}>All indices</a></p>
    <h2>${name} <${State} state=${data.status} /></h2>
    <${Trouble} error=${error} />
    <${Standing} standstill=${data.standstill} where="" />
    ${data.foreign_writes > 0 && html`<div class="standing"><b>${plural(data.foreign_writes, 'foreign write')}</b><br />Something else has written to the index, past the gateway. A verification says which documents differ.</div>`}
    <${Buttons} index=${data} name=${name} onAct=${onAct} />
    <div class="box"><${Facts} of=${[
      ['Leader', `${data.leader_alias ?? '?'}:${data.leader_index ?? '?'}`],
      ['Reason of the state', data.reason],
      ['Behind', lag && duration(lag.millis)],
      ['Operations behind', lag?.operations !== undefined && count(lag.operations)],
      ['Copy', copy && `${Math.floor(copy.bytes_percent)} %, for ${duration(copy.running_time)}`],
      ['Documents copied', copy?.documents_total !== undefined && `${count(copy.documents_recovered)} of ${count(copy.documents_total)}`],
      ['Topic', data.topic && html`<code>${data.topic}</code>`],
      ['Snapshot repository', data.repository],
      ['Own settings', settings.length > 0 && settings.map(([key, value]) => html`<div key=${key}><code>${key}: ${String(value)}</code></div>`)],
    ]} /></div>
    <${History} name=${name} />
    <${Shards} index=${data} onMove=${(to) => change({ offset: to || undefined })} />
    <${Letters} name=${name} letters=${data.dead_letters} onAct=${onAct} />
    <${Verification} name=${name} onAct=${onAct} />`;
}
