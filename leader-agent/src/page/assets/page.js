// The leader agent's page: the shards that it captures, and why they wait.

import { Empty, Facts, Frame, Pager, Table, Trouble, bytes, cause, count, html, plural, refresh, render, since, usePlace, usePoll } from './frame.js';

const LIMIT = 50;
const STATES = [['waiting', 'waiting', 'bad'], ['resyncing', 'in a resync', 'resync'], ['behind', 'behind', '']];

function Tiles({ summary, state, onState }) {
  const tile = (key, title, number, kind) => html`<li key=${key}><button type="button" aria-pressed=${state === key} onClick=${() => onState(state === key ? undefined : key)}><b class=${number > 0 ? kind : ''}>${count(number)}</b>${title}</button></li>`;
  return html`<ul class="tiles" aria-label="Summary, and filters by state">
    ${tile(undefined, 'shards captured', summary.shards, '')}
    ${STATES.map(([key, title, kind]) => tile(key, title, summary[key], kind))}
    <li key="indices"><div><b>${count(summary.indices)}</b>indices</div></li>
    <li key="operations"><div><b>${count(summary.operations_behind)}</b>operations not in Kafka</div></li>
  </ul>`;
}

const COLUMNS = [
  { title: 'Index', sort: 'name', show: (row) => row.index },
  { title: 'Shard', kind: 'number', show: (row) => row.shard },
  // A shard's numbers begin at 0: its count of operations is one more than the last of them.
  { title: 'Has', kind: 'number', show: (row) => (row.checkpoint === null ? '–' : count(row.checkpoint + 1)) },
  { title: 'In Kafka', kind: 'number', show: (row) => (row.shipped === null ? '–' : count(row.shipped + 1)) },
  { title: 'Behind', sort: 'behind', kind: 'number', show: (row) => count(row.behind) },
  { title: 'Translog', kind: 'number', show: (row) => bytes(row.translog_bytes) },
  { title: 'Spool', sort: 'spool', kind: 'number', show: (row) => bytes(row.spool_bytes) },
  { title: 'Followers', kind: 'number', show: (row) => count(row.followers) },
  { title: 'Note', show: (row) => [
    row.wait && html`<div key="wait"><b class="bad">${cause(row.wait.cause)}</b> ${since(row.wait.since)}: ${row.wait.reason} <span class="dim">Ends when ${row.wait.ends_when}.</span></div>`,
    row.is_resyncing && html`<div key="resync" class="resync">Resync: scanned, as the translog no longer reaches back to what Kafka has</div>`,
    row.errors > 0 && html`<div key="errors">Started again ${plural(row.errors, 'time')}</div>`,
  ].filter(Boolean) },
];

const spoolColumns = [
  { title: 'Data folder', show: (spool) => html`<code>${spool.data_path}</code>` },
  { title: 'Spool', show: (spool) => html`<progress max=${Math.max(spool.limit_bytes, 1)} value=${spool.used_bytes} aria-label=${`Spool of ${spool.data_path}`}></progress> ${bytes(spool.used_bytes)} of ${bytes(spool.limit_bytes)}` },
];

function Shards({ query, change }) {
  const get = (name) => query.get(name) ?? undefined;
  const sort = get('sort') ?? 'name';
  const asked = new URLSearchParams({ limit: LIMIT, offset: get('offset') ?? 0, sort });
  for (const name of ['q', 'state']) if (get(name)) asked.set(name, get(name));
  const state = usePoll(`page/shards?${asked}`, 2);
  const { data, error } = state;
  return html`<h2 class="hidden">Captured shards</h2>
    <${Trouble} error=${error} />
    ${data && html`<${Tiles} summary=${data.summary} state=${get('state')} onState=${(of) => change({ state: of, offset: undefined })} />
      <p class="hidden" role="status">${data.summary.waiting === 0 ? 'No shard waits.' : `${plural(data.summary.waiting, 'shard waits', 'shards wait')}.`}</p>`}
    <div class="tools" role="search">
      <input type="search" aria-label="Filter by name, or by a pattern with *" placeholder="Filter by name or pattern" value=${get('q') ?? ''} onInput=${(event) => change({ q: event.target.value || undefined, offset: undefined })} />
      ${data && html`<span class="dim" data-found=${data.found}>${plural(data.found, 'shard')}</span>`}
    </div>
    ${!data || data.found === 0 ? html`<${Empty} state=${state}>${data?.summary.shards === 0 ? 'This agent captures nothing: no primary on its node is followed.' : 'No shard is found.'}</${Empty}>` : html`
      <${Table} label="Captured shards" columns=${COLUMNS} rows=${data.rows} keyOf=${(row) => `${row.index}/${row.shard}`} sort=${{ by: sort, isDescending: sort !== 'name' }} onSort=${(by) => change({ sort: by, offset: undefined })} />
      <${Pager} found=${data.found} offset=${data.offset} limit=${LIMIT} what="shards" onMove=${(to) => change({ offset: to || undefined })} />`}`;
}

function Node({ agent }) {
  return html`<h2>Node</h2>
    <div class="box"><${Facts} of=${[
      ['Cluster', agent.cluster],
      ['Node', agent.node],
      ['Transport address', html`<code>${agent.transport_address}</code>`],
      ['Changes come from', agent.source === 'poll' ? 'polls of the REST API' : 'the translogs on its disk'],
      ['Agent', agent.version],
    ]} /></div>
    ${agent.spools.length > 0 && html`<h2>Spools</h2><${Table} label="Spools" columns=${spoolColumns} rows=${agent.spools} keyOf=${(spool) => spool.data_path} />`}`;
}

function Page() {
  const [{ view, query }, change] = usePlace();
  const { data: agent, error } = usePoll('page/agent', 10);
  const isNode = view === 'node';
  const note = agent && html`Shardline ${agent.version} · beside ${agent.node} of ${agent.cluster} · <button type="button" onClick=${refresh}>Look again</button>`;
  return html`<${Frame} name="leader" tabs=${[['shards', 'Shards'], ['node', 'Node']]} view=${isNode ? 'node' : 'shards'} note=${note}>
    ${!agent && html`<${Trouble} error=${error} />`}
    ${isNode ? agent && html`<${Node} agent=${agent} />` : html`<${Shards} query=${query} change=${change} />`}
  </${Frame}>`;
}

const root = document.getElementById('page');
root.replaceChildren();
render(html`<${Page} />`, root);
