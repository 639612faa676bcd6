// The follower agent's page: the table of followed indices, and what the other views share.

import * as actions from './actions.js';
import { Agents, Rules } from './cluster.js';
import { Empty, Frame, Pager, Table, Trouble, cause, count, duration, html, link, plural, refresh, render, useCallback, useEffect, usePlace, usePoll, useState } from './frame.js';
import { Index } from './index.js';
import { History, State } from './parts.js';

const TABS = [['indices', 'Indices'], ['rules', 'Rules'], ['cluster', 'Cluster']];
const LIMIT = 50;
const STATES = ['SYNCING', 'BOOTSTRAPPING', 'RUNNING', 'PAUSED', 'FAILED'];

function Tiles({ summary, state, onState }) {
  const tile = (key, title, number, kind) => html`<li key=${key}><button type="button" aria-pressed=${state === key} onClick=${() => onState(state === key ? undefined : key)}><b class=${kind}>${count(number)}</b>${title}</button></li>`;
  return html`<ul class="tiles" aria-label="Summary, and filters by state">
    ${tile(undefined, 'followed', summary.indices)}
    ${tile('attention', 'need attention', summary.attention, summary.attention > 0 ? 'bad' : '')}
    ${STATES.filter((of) => summary.states[of]).map((of) => tile(of, of.toLowerCase(), summary.states[of], of))}
    <li key="lag"><div><b>${duration(summary.millis)}</b>furthest behind</div></li>
    <li key="operations"><div><b>${count(summary.operations)}</b>operations behind</div></li>
  </ul>`;
}

/** What there is to say of an index in a line. */
function Note({ row }) {
  const notes = [];
  if (row.standstill) {
    const where = row.standstill.shards > 0 ? plural(row.standstill.shards, 'shard') : 'the index';
    notes.push(html`<div key="standstill" class="bad">${cause(row.standstill.cause)}: ${where} for ${duration(Math.max(0, Date.now() - row.standstill.since))}</div>`);
  }
  if (row.dead_letters) notes.push(html`<div key="letters" class="bad">${plural(row.dead_letters, 'dead letter')}</div>`);
  if (row.foreign_writes) notes.push(html`<div key="foreign" class="bad">${plural(row.foreign_writes, 'foreign write')}</div>`);
  if (row.resyncs) notes.push(html`<div key="resyncs" class="resync">${plural(row.resyncs, 'resync')}</div>`);
  if (row.reason) notes.push(html`<div key="reason" class=${row.needs_attention ? 'bad' : ''}>${row.reason}</div>`);
  return notes;
}

const progress = (row) => (row.percent === undefined ? count(row.applied) : html`<progress max="100" value=${row.percent} aria-label=${`Copy of ${row.index}`}></progress> ${row.percent} %`);

function columns(selected, onSelect) {
  return [
    { title: 'Selected', hidden: true, kind: 'narrow', show: (row) => html`<input type="checkbox" aria-label=${`Select ${row.index}`} checked=${selected.has(row.index)} onChange=${() => onSelect(row.index)} />` },
    { title: 'Index', sort: 'name', show: (row) => html`<a href=${link('index', { name: row.index })}>${row.index}</a>` },
    // One that is called alike needs no second name.
    { title: 'Leader', show: (row) => (row.leader.endsWith(`:${row.index}`) ? row.leader.slice(0, -row.index.length - 1) : row.leader) },
    { title: 'State', sort: 'state', kind: 'state-cell', show: (row) => html`<${State} state=${row.state} />` },
    { title: 'Behind', sort: 'millis', kind: 'number', show: (row) => duration(row.millis) },
    { title: 'Operations', sort: 'operations', kind: 'number', show: (row) => count(row.operations) },
    { title: 'Applied', kind: 'number', show: progress },
    { title: 'Note', show: (row) => html`<${Note} row=${row} />` },
  ];
}

const GROUPS = [
  { title: 'Pattern', sort: 'name', show: (group) => html`<a href=${link('indices', { q: group.pattern })}>${group.pattern}</a>` },
  { title: 'Indices', kind: 'number', show: (group) => count(group.indices) },
  { title: 'Need attention', sort: 'state', kind: 'number', show: (group) => (group.attention ? html`<span class="bad">${count(group.attention)}</span>` : '0') },
  { title: 'States', show: (group) => Object.entries(group.states).map(([state, number]) => html`<span key=${state}><${State} state=${state} /> ${count(number)} </span>`) },
  { title: 'Behind', sort: 'millis', kind: 'number', show: (group) => duration(group.millis) },
  { title: 'Operations', sort: 'operations', kind: 'number', show: (group) => count(group.operations) },
];

function Selection({ selected, onClear, onAct }) {
  if (selected.size === 0) return null;
  const chosen = [...selected];
  return html`<div class="tools box" role="group" aria-label="Selected indices"><b>${count(selected.size)} selected</b>
    <button type="button" onClick=${() => onAct(actions.pause(chosen))}>Pause…</button>
    <button type="button" onClick=${() => onAct(actions.resume(chosen))}>Resume…</button>
    <button type="button" onClick=${() => onAct(actions.stop(chosen))}>Stop…</button>
    <button type="button" onClick=${onClear}>Select none</button></div>`;
}

function Indices({ query, change, onAct, agent }) {
  const [selected, setSelected] = useState(new Set());
  const get = (name) => query.get(name) ?? undefined;
  const sort = { by: get('sort') ?? 'name', isDescending: get('descending') !== undefined };
  const isGrouped = get('group') !== undefined;
  const offset = Number(get('offset') ?? 0);
  const asked = new URLSearchParams({ limit: LIMIT, offset, sort: sort.by });
  for (const name of ['q', 'state', 'descending', 'group']) if (get(name) !== undefined) asked.set(name, get(name));
  const state = usePoll(`page/indices?${asked}`, 2);
  const { data, error } = state;
  const onSort = (by) => {
    const isFirst = by !== sort.by;
    // A lag is looked for from the largest on.
    const isDescending = isFirst ? by === 'millis' || by === 'operations' : !sort.isDescending;
    change({ sort: by, descending: isDescending ? '1' : undefined, offset: undefined });
  };
  const onSelect = (name) => setSelected((before) => {
    const after = new Set(before);
    if (!after.delete(name)) after.add(name);
    return after;
  });
  const aliases = agent?.aliases ?? [];
  return html`
    <h2 class="hidden">Followed indices</h2>
    <${Trouble} error=${error} />
    ${data && html`<${Tiles} summary=${data.summary} state=${get('state')} onState=${(of) => change({ state: of, offset: undefined })} />
      <p class="hidden" role="status">${data.summary.attention === 0 ? 'No index needs attention.' : `${plural(data.summary.attention, 'index needs', 'indices need')} attention.`}</p>`}
    ${agent?.sees_cluster && html`<${History} />`}
    <div class="tools" role="search">
      <input type="search" aria-label="Filter by name, or by a pattern with *" placeholder="Filter by name or pattern" value=${get('q') ?? ''} onInput=${(event) => change({ q: event.target.value || undefined, offset: undefined })} />
      <label><input type="checkbox" checked=${isGrouped} onChange=${(event) => change({ group: event.target.checked ? '1' : undefined, sort: undefined, offset: undefined })} /> Group by pattern</label>
      ${data && html`<span class="dim" data-found=${data.found}>${plural(data.found, isGrouped ? 'group' : 'index', isGrouped ? 'groups' : 'indices')}</span>`}
      <button type="button" onClick=${() => onAct(actions.start(aliases))}>Follow an index…</button>
      <button type="button" onClick=${() => onAct(actions.bulk(get('q')?.includes('*') ? get('q') : '', aliases))}>Many at once…</button>
    </div>
    <${Selection} selected=${selected} onClear=${() => setSelected(new Set())} onAct=${onAct} />
    ${!data || data.found === 0 ? html`<${Empty} state=${state}>${data?.summary.indices === 0 ? 'No index is followed yet.' : 'No index is found.'}</${Empty}>` : html`
      ${data.rows && html`<${Table} label="Followed indices" columns=${columns(selected, onSelect)} rows=${data.rows} keyOf=${(row) => row.index} sort=${sort} onSort=${onSort} />`}
      ${data.groups && html`<${Table} label="Groups of followed indices" columns=${GROUPS} rows=${data.groups} keyOf=${(group) => group.pattern} sort=${{ ...sort, isDescending: sort.by !== 'name' }} onSort=${(by) => change({ sort: by, offset: undefined })} />`}
      <${Pager} found=${data.found} offset=${data.offset} limit=${LIMIT} what="indices" onMove=${(to) => change({ offset: to || undefined })} />`}`;
}

function Page() {
  const [{ view, query }, change] = usePlace();
  const [action, setAction] = useState();
  const [said, setSaid] = useState('');
  const { data: agent, error } = usePoll('page/agent', 30);
  const onDone = useCallback((words) => setSaid(words), []);
  const onClose = useCallback(() => setAction(undefined), []);
  useEffect(() => {
    if (!said) return undefined;
    const timer = setTimeout(() => setSaid(''), 8000);
    return () => clearTimeout(timer);
  }, [said]);
  useEffect(() => {
    const title = view === 'index' ? query.get('name') : TABS.find(([of]) => of === view)?.[1];
    document.title = title ? `${title} – Shardline` : 'Shardline';
  }, [view, query]);
  const shared = { query, change, agent, onAct: setAction };
  const views = { index: Index, rules: Rules, cluster: Agents };
  const View = views[view] ?? Indices;
  const note = agent && html`Shardline ${agent.version} · gateway <code>${agent.gateway}</code> · ${agent.actions ? 'actions are on' : 'this page only shows (admin.actions)'} · <button type="button" onClick=${refresh}>Look again</button>`;
  return html`<${Frame} name="follower" tabs=${TABS} view=${view in views ? (view === 'index' ? 'indices' : view) : 'indices'} note=${note}>
      ${!agent && html`<${Trouble} error=${error} />`}
      <${View} key=${view === 'index' ? query.get('name') : view} ...${shared} />
    </${Frame}>
    <${actions.ActionDialog} action=${action} agent=${agent} onDone=${onDone} onClose=${onClose} />
    <p class="toast" role="status">${said}</p>`;
}

const root = document.getElementById('page');
root.replaceChildren();
render(html`<${Page} />`, root);
