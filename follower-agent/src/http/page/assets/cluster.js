// What is not about one index: rules, tasks, the agents of the group, the leader clusters.

import * as actions from './actions.js';
import { Empty, Facts, Table, Trouble, bytes, count, html, plural, time, usePoll } from './frame.js';

function failures(rule) {
  const found = Object.entries(rule.failures ?? {});
  if (found.length === 0) return null;
  return html`<ul class="plain">${found.slice(0, 10).map(([index, failure]) => html`<li key=${index}><b>${index}</b>: ${failure.reason} <span class="dim">${plural(failure.attempts, 'attempt')}, next ${time(failure.next_attempt)}</span></li>`)}</ul>${found.length > 10 && html`<span class="dim">and ${found.length - 10} more</span>`}`;
}

export function Rules({ agent, onAct }) {
  const state = usePoll(`${actions.CALLS}/autofollow_stats`, 5);
  const { data, error } = state;
  const rules = data?.autofollow_stats ?? [];
  const columns = [
    { title: 'Rule', show: (rule) => rule.name },
    { title: 'Pattern', show: (rule) => html`<code>${rule.pattern}</code>` },
    { title: 'Leader', show: (rule) => rule.leader_alias },
    { title: 'Started', kind: 'number', show: (rule) => count(rule.num_success_start_replication) },
    { title: 'Failed', kind: 'number', show: (rule) => html`<span class=${rule.num_failed_start_replication ? 'bad' : ''}>${count(rule.num_failed_start_replication)}</span>` },
    { title: 'Looked last', show: (rule) => time(rule.last_execution_time) },
    { title: 'Not started', show: failures },
    { title: 'Delete', hidden: true, kind: 'narrow', show: (rule) => html`<button type="button" aria-label=${`Delete the rule ${rule.name}`} onClick=${() => onAct(actions.deleteRule(rule))}>Delete…</button>` },
  ];
  return html`<h2>Auto-follow rules</h2>
    <${Trouble} error=${error} />
    <div class="tools"><button type="button" onClick=${() => onAct(actions.makeRule(agent?.aliases ?? []))}>New rule…</button></div>
    ${rules.length === 0 ? html`<${Empty} state=${state}>There is no rule: only what was started by hand is followed.</${Empty}>` : html`<${Table} label="Auto-follow rules" columns=${columns} rows=${rules} keyOf=${(rule) => `${rule.leader_alias}/${rule.name}`} />`}`;
}

const agentColumns = [
  { title: 'Gateway', show: (agent) => html`<code>${agent.address}</code>${agent.is_this && html` <span class="dim">this one</span>`}` },
  { title: 'Slots', kind: 'number', show: (agent) => count(agent.slots) },
  { title: 'Looks after', show: (agent) => (agent.has_cluster_slot ? 'rules, tasks and settings, and its slots' : 'its slots') },
];

const nodeColumns = [
  { title: 'Node', show: (node) => node.node_name },
  { title: 'Address', show: (node) => html`<code>${node.transport_address}</code>` },
  { title: 'Agent', show: (node) => node.agent_version },
  { title: 'Announced', show: (node) => time(node.announced_ms) },
];

function Leader({ leader }) {
  return html`<section class="box" aria-label=${`Leader cluster ${leader.cluster_name}`}><h3>${leader.cluster_name} <span class="dim">${leader.aliases.join(', ')}</span></h3>
    <${Facts} of=${[
      ['Indices', count(leader.indices)],
      ['Captured', count(leader.captured)],
      ['Followed here', count(leader.followed)],
      ['Operations read for followers', count(leader.operations_read)],
      ['Translogs', bytes(leader.translog_bytes)],
      ['Cluster', html`<code>${leader.cluster_uuid}</code>`],
    ]} />
    <${Table} label=${`Leader agents of ${leader.cluster_name}`} columns=${nodeColumns} rows=${leader.nodes} keyOf=${(node) => node.node_name + node.transport_address} /></section>`;
}

const taskName = (task) => task.operation_type.replace(/^bulk_|_replication$/g, '');

const taskColumns = (onAct) => [
  { title: 'Task', show: (task) => html`${taskName(task)} <code>${task.pattern}</code>` },
  { title: 'Begun', show: (task) => time(task.start_time) },
  { title: 'Progress', show: (task) => {
    const done = task.num_success + task.num_failed + task.num_cancelled;
    const total = done + task.num_pending;
    return html`<progress max=${Math.max(total, 1)} value=${done} aria-label=${`Task on ${task.pattern}`}></progress> ${count(done)} of ${count(total)}`;
  } },
  { title: 'Done', kind: 'number', show: (task) => count(task.num_success) },
  { title: 'Failed', kind: 'number', show: (task) => html`<span class=${task.num_failed ? 'bad' : ''}>${count(task.num_failed)}</span>` },
  { title: 'Failures', show: (task) => task.failed_indices.length > 0 && html`<ul class="plain">${task.failed_indices.slice(0, 5).map((failed) => html`<li key=${failed.index}><b>${failed.index}</b>: ${failed.failure_reason}</li>`)}</ul>` },
  { title: 'Cancel', hidden: true, kind: 'narrow', show: (task) => !task.is_done && html`<button type="button" aria-label=${`Cancel the task on ${task.pattern}`} onClick=${() => onAct(actions.cancelTask(task))}>Cancel…</button>` },
];

export function Agents({ onAct }) {
  const state = usePoll('page/cluster', 5);
  const { data, error } = state;
  if (!data) return html`<h2>Cluster</h2><${Trouble} error=${error} /><${Empty} state=${state} />`;
  return html`<h2>Tasks</h2><${Trouble} error=${error} />
    ${data.tasks.length === 0 ? html`<p class="note">No task on many indices is known.</p>` : html`<${Table} label="Tasks" columns=${taskColumns(onAct)} rows=${data.tasks} keyOf=${(task) => task.task_id} />`}
    <h2>Follower agents</h2>
    ${data.agents_error && html`<p class="trouble" role="alert">${data.agents_error}</p>`}
    <${Table} label="Follower agents" columns=${agentColumns} rows=${data.agents} keyOf=${(agent) => agent.address} />
    <h2>Leader clusters</h2>
    ${data.leaders.length === 0 && html`<p class="note">No leader agent has announced itself in this Kafka.</p>`}
    ${data.leaders.map((leader) => html`<${Leader} key=${leader.cluster_uuid} leader=${leader} />`)}`;
}
