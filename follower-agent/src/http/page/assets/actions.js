// What can be done: each action says what will happen and shows the requests that it sends.

import { ask, html, plural, refresh, useEffect, useRef, useState } from './frame.js';

const BASE = '/_plugins/_replication';
export const CALLS = `page/api${BASE}`;

const of = (index, call) => `${BASE}/${encodeURIComponent(index)}/${call}`;
const request = (method, path, body) => ({ method, path, body });

// The dialog ----------------------------------------------------------------------------------

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** A request as a line for a shell. */
export function curl({ method, path, body }, gateway) {
  const data = body === undefined ? '' : ` \\\n  -H 'Content-Type: application/json' -d ${quoted(JSON.stringify(body))}`;
  return `curl -X ${method} ${quoted(gateway + path)}${data}`;
}

function send({ method, path, body }) {
  const headers = { 'x-shardline-page': '1' };
  if (body !== undefined) headers['content-type'] = 'application/json';
  return ask(`page/api${path}`, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
}

function Field({ field, value, onChange }) {
  const { name, label, kind = 'text', help, options, suggestions, required } = field;
  const helpId = help && `${name}-help`;
  const common = { name, required, 'aria-describedby': helpId };
  const note = help && html`<span class="help" id=${helpId}>${help}</span>`;
  const onInput = (event) => onChange(event.target.value);
  if (kind === 'check') {
    return html`<div class="field"><label><input type="checkbox" ...${common} checked=${value} onChange=${(event) => onChange(event.target.checked)} /> ${label}</label>${note}</div>`;
  }
  const control = {
    area: () => html`<textarea rows="4" spellcheck="false" ...${common} value=${value} onInput=${onInput}></textarea>`,
    select: () => html`<select ...${common} value=${value} onChange=${onInput}>${options.map((option) => html`<option key=${option} value=${option}>${option}</option>`)}</select>`,
    text: () => html`<input ...${common} value=${value} onInput=${onInput} list=${suggestions && `${name}-list`} autocomplete="off" spellcheck="false" />`,
  }[kind]();
  return html`<label class="field">${label}${control}${note}
    ${suggestions && html`<datalist id=${`${name}-list`}>${suggestions.map((text) => html`<option key=${text} value=${text} />`)}</datalist>`}</label>`;
}

/** Shows an action, and carries it out where the agent lets the page do so. */
export function ActionDialog({ action, agent, onDone, onClose }) {
  const dialog = useRef();
  const [values, setValues] = useState({});
  const [isBusy, setBusy] = useState(false);
  const [failures, setFailures] = useState([]);
  useEffect(() => {
    if (!action) return;
    setValues(Object.fromEntries((action.fields ?? []).map((field) => [field.name, field.value ?? (field.kind === 'check' ? false : '')])));
    setFailures([]);
    dialog.current.showModal();
  }, [action]);
  if (!action) return html`<dialog ref=${dialog} aria-label="Nothing to do"></dialog>`;
  const problem = action.check?.(values);
  let requests = [];
  try {
    requests = action.requests(values);
  } catch {
    // The problem says so.
  }
  const shown = requests.slice(0, 20).map((one) => curl(one, agent?.gateway ?? ''));
  if (requests.length > shown.length) shown.push(`# and ${requests.length - shown.length} more like these`);
  const script = shown.join('\n');
  const close = () => dialog.current.close();
  const run = async (event) => {
    event.preventDefault();
    if (problem || isBusy) return;
    setBusy(true);
    const failed = [];
    for (const one of requests) {
      try {
        await send(one);
      } catch (error) {
        failed.push(requests.length > 1 ? `${decodeURIComponent(one.path.slice(BASE.length + 1))}: ${error.message}` : error.message);
      }
    }
    setBusy(false);
    setFailures(failed);
    refresh();
    if (failed.length === 0) {
      close();
      onDone(action.done ?? 'Done.');
    }
  };
  const Extra = action.extra;
  return html`<dialog ref=${dialog} aria-labelledby="action-title" onClose=${onClose}>
    <form onSubmit=${run}>
      <h2 id="action-title">${action.title}</h2>
      <p>${action.what(values)}</p>
      ${(action.fields ?? []).map((field) => html`<${Field} key=${field.name} field=${field} value=${values[field.name] ?? ''} onChange=${(value) => setValues((before) => ({ ...before, [field.name]: value }))} />`)}
      ${Extra && html`<${Extra} values=${values} />`}
      <p class="dim">${requests.length > 1 ? `These ${requests.length} requests are` : 'This request is'} sent; put it in a script if you like:</p>
      <pre tabindex="0" role="region" aria-label="The request as a command">${script}</pre>
      ${problem && html`<p class="note" role="status">${problem}</p>`}
      ${failures.length > 0 && html`<div class="trouble" role="alert">${failures.map((text) => html`<div key=${text}>${text}</div>`)}</div>`}
      ${agent && !agent.actions && html`<p class="note">This page only shows. With <code>admin.actions = true</code> in the agent's configuration it sends the request itself.</p>`}
      <div class="buttons">
        <button type="button" onClick=${() => navigator.clipboard?.writeText(script)}>Copy</button>
        <button type="button" onClick=${close}>Cancel</button>
        ${agent?.actions && html`<button type="submit" class=${action.isDangerous ? 'danger' : 'go'} disabled=${Boolean(problem) || isBusy}>${isBusy ? 'Under way…' : action.verb}</button>`}
      </div>
    </form>
  </dialog>`;
}

// Actions on indices --------------------------------------------------------------------------

const names = (indices) => (indices.length === 1 ? indices[0] : plural(indices.length, 'index', 'indices'));

export const pause = (indices) => ({
  title: `Pause ${names(indices)}`,
  verb: 'Pause',
  done: `${names(indices)}: paused.`,
  what: () => 'Nothing of the leader is applied until it is resumed; the index stays read-only. If the pause outlasts the retention in Kafka, the index is copied anew.',
  fields: [{ name: 'reason', label: 'Reason', help: 'Shown in the status.' }],
  requests: ({ reason }) => indices.map((index) => request('POST', of(index, '_pause'), reason ? { reason } : {})),
});

export const resume = (indices) => ({
  title: `Resume ${names(indices)}`,
  verb: 'Resume',
  done: `${names(indices)}: resumed.`,
  what: () => 'It is followed on from where it was. What Kafka no longer has is copied anew.',
  requests: () => indices.map((index) => request('POST', of(index, '_resume'), {})),
});

export const stop = (indices) => ({
  title: `Stop following ${names(indices)}`,
  verb: 'Stop',
  isDangerous: true,
  done: `${names(indices)}: no longer followed.`,
  what: () => 'The index keeps its documents and becomes an ordinary one that can be written to. It cannot be followed again: for that, delete it and start anew, with a full copy.',
  fields: [{ name: 'sure', label: 'I know that this cannot be taken back', kind: 'check' }],
  check: ({ sure }) => (sure ? undefined : 'Say that you are sure.'),
  requests: () => indices.map((index) => request('POST', of(index, '_stop'), {})),
});

const parsed = (text) => {
  const settings = JSON.parse(text || '{}');
  if (typeof settings !== 'object' || settings === null || Array.isArray(settings)) throw new Error('no object');
  return settings;
};

const settingsProblem = ({ settings }) => {
  try {
    parsed(settings);
    return undefined;
  } catch {
    return 'The settings are no JSON object.';
  }
};

export const update = (index, settings) => ({
  title: `Settings of ${index}`,
  verb: 'Update',
  done: `${index}: settings replaced.`,
  what: () => 'These settings replace all that were given before; those of the leader hold for the rest.',
  fields: [{ name: 'settings', label: 'Settings (JSON)', kind: 'area', value: JSON.stringify(settings, null, 2), help: 'Such as {"index.number_of_replicas": 1}' }],
  check: settingsProblem,
  requests: (values) => [request('PUT', of(index, '_update'), { settings: parsed(values.settings) })],
});

export const verify = (index) => ({
  title: `Verify ${index}`,
  verb: 'Verify',
  done: `${index}: is being compared with its leader.`,
  what: ({ repair }) => `The index is compared with its leader while both go on.${repair ? ' If documents differ, it is copied anew.' : ' Nothing is changed.'}`,
  fields: [
    { name: 'content', label: 'Compare contents, not only versions', kind: 'check' },
    { name: 'repair', label: 'Copy the index anew if it differs', kind: 'check' },
    { name: 'rate', label: 'Documents a second, at most', value: '100000', help: '0 for no limit' },
  ],
  check: ({ rate }) => (/^\d+$/.test(rate ?? '') ? undefined : 'The rate is a whole number.'),
  requests: ({ content, repair, rate }) => [request('POST', of(index, '_verify'), { content: Boolean(content), repair: Boolean(repair), documents_per_second: Number(rate) })],
});

export const forgetVerification = (index) => ({
  title: `Forget the verification of ${index}`,
  verb: 'Forget',
  what: () => 'One that is under way is ended; the outcome of one that is done is no longer shown.',
  requests: () => [request('DELETE', of(index, '_verify'))],
});

export const retryLetters = (index, letters) => ({
  title: `Deliver dead letters of ${index} again`,
  verb: 'Deliver again',
  done: `${index}: its dead letters are on their way again.`,
  what: () => `The leader ships ${letters ? plural(letters, 'document') : 'them'} again as they are now. Those that the index still refuses become dead letters again: mend its mapping or limit first.`,
  requests: () => [request('POST', of(index, '_dead_letters/_replay'), {})],
});

// Actions on the cluster ----------------------------------------------------------------------

/** What a pattern finds on the leader, asked a moment after the last key. */
function Preview({ values }) {
  const { leader_alias: alias, pattern, leader_index: leader } = values;
  const wanted = pattern ?? (leader && `${leader}*`);
  const [state, setState] = useState({});
  useEffect(() => {
    if (!alias || !wanted) return setState({});
    let isOver = false;
    const timer = setTimeout(async () => {
      try {
        const found = await ask(`page/preview?${new URLSearchParams({ leader_alias: alias, pattern: wanted })}`);
        if (!isOver) setState({ found });
      } catch (error) {
        if (!isOver) setState({ error });
      }
    }, 250);
    return () => {
      isOver = true;
      clearTimeout(timer);
    };
  }, [alias, wanted]);
  const { found, error } = state;
  if (error) return html`<p class="note" role="status">${error.message}</p>`;
  if (!found) return html`<p class="note" role="status"></p>`;
  const row = (one) => html`<li key=${one.index}>${one.index} <span class="dim">${plural(one.shards, 'shard')}${one.followed_as ? `, followed as ${one.followed_as}` : ''}</span>${one.refusal && html` <span class="bad">${one.refusal}</span>`}</li>`;
  return html`<div class="field" role="status"><b>${found.found === 0 ? 'Finds no index of the leader.' : `Finds ${plural(found.found, 'index', 'indices')} of the leader:`}</b>
    <ul class="plain">${found.indices.slice(0, 12).map(row)}</ul>${found.found > 12 && html`<span class="dim">and ${found.found - 12} more</span>`}</div>`;
}

const alias = (aliases) => ({ name: 'leader_alias', label: 'Connection alias of the leader cluster', required: true, value: aliases.length === 1 ? aliases[0] : '', suggestions: aliases });
const roles = [
  { name: 'leader_role', label: 'Role on the leader cluster', help: 'Only where the security plugin is on.' },
  { name: 'follower_role', label: 'Role on this cluster', help: 'Only where the security plugin is on.' },
];
const useRoles = ({ leader_role: leader, follower_role: follower }) => (leader || follower ? { use_roles: { leader_cluster_role: leader, follower_cluster_role: follower } } : {});
const missing = (values, ...needed) => (needed.some((name) => !values[name]?.trim()) ? 'Some fields are still empty.' : undefined);

export const start = (aliases) => ({
  title: 'Follow an index',
  verb: 'Start',
  done: 'It is being followed; the copy comes first.',
  what: ({ leader_index: leader, follower_index: follower }) => `${follower || 'A new index'} is made on this cluster as a copy of ${leader || 'the leader’s'} and follows it from then on. It must not exist yet, and is read-only while it follows.`,
  fields: [
    alias(aliases),
    { name: 'leader_index', label: 'Leader index', required: true },
    { name: 'follower_index', label: 'Follower index', required: true },
    { name: 'settings', label: 'Settings that win over the leader’s (JSON)', kind: 'area', value: '{}' },
    { name: 'repository', label: 'Snapshot repository for the copy', help: 'Empty: as the configuration says.' },
    ...roles,
  ],
  extra: Preview,
  check: (values) => missing(values, 'leader_alias', 'leader_index', 'follower_index') ?? settingsProblem(values),
  requests: (values) => {
    const settings = parsed(values.settings);
    const body = { leader_alias: values.leader_alias, leader_index: values.leader_index, ...useRoles(values) };
    if (Object.keys(settings).length > 0) body.settings = settings;
    if (values.repository) body.repository = values.repository;
    return [request('PUT', of(values.follower_index || 'NAME', '_start'), body)];
  },
});

export const makeRule = (aliases) => ({
  title: 'New auto-follow rule',
  verb: 'Make the rule',
  done: 'The rule is made; what it finds is started one after the other.',
  what: () => 'Every index of the leader that the pattern finds, now or later, is followed.',
  fields: [
    alias(aliases),
    { name: 'name', label: 'Name of the rule', required: true },
    { name: 'pattern', label: 'Pattern of leader indices or aliases', required: true, help: 'Such as logs-*' },
    { name: 'follower_index_pattern', label: 'Names of the follower indices', help: 'Such as {{leader_index}}-copy; empty: as the leader’s' },
    ...roles,
  ],
  extra: Preview,
  check: (values) => missing(values, 'leader_alias', 'name', 'pattern'),
  requests: (values) => {
    const body = { leader_alias: values.leader_alias, name: values.name, pattern: values.pattern, ...useRoles(values) };
    if (values.follower_index_pattern) body.follower_index_pattern = values.follower_index_pattern;
    return [request('POST', `${BASE}/_autofollow`, body)];
  },
});

export const deleteRule = (rule) => ({
  title: `Delete the rule ${rule.name}`,
  verb: 'Delete',
  isDangerous: true,
  done: `The rule ${rule.name} is deleted.`,
  what: () => 'New indices of the leader are no longer followed by it. Those that it started go on.',
  requests: () => [request('DELETE', `${BASE}/_autofollow`, { leader_alias: rule.leader_alias, name: rule.name })],
});

const BULK = { pause: 'Paused', resume: 'Resumed', stop: 'Stopped for good, and writable' };

export const bulk = (pattern, aliases) => ({
  title: 'One action on many indices',
  verb: 'Begin',
  isDangerous: true,
  done: 'The task is begun; its progress is with the cluster.',
  what: ({ operation, pattern: text }) => (operation === 'start' ? 'Every index of the leader that the pattern finds is followed under its own name.' : `${BULK[operation] ?? 'Changed'}: every followed index that ${text || 'the pattern'} finds.`),
  fields: [
    { name: 'operation', label: 'Action', kind: 'select', options: ['pause', 'resume', 'start', 'stop'], value: 'pause' },
    { name: 'pattern', label: 'Pattern', required: true, value: pattern },
    { name: 'exclude', label: 'Except', help: 'Names, separated by commas' },
    { name: 'leader_alias', label: 'Connection alias, for a start', value: aliases.length === 1 ? aliases[0] : '', suggestions: aliases },
    ...roles,
    { name: 'sure', label: 'I know that all of these change', kind: 'check' },
  ],
  check: (values) => missing(values, 'pattern') ?? (values.operation === 'start' ? missing(values, 'leader_alias') : undefined) ?? (values.sure ? undefined : 'Say that you are sure.'),
  requests: (values) => {
    const body = { pattern: values.pattern, ...(values.operation === 'start' ? { leader_alias: values.leader_alias, ...useRoles(values) } : {}) };
    const excluded = (values.exclude ?? '').split(',').map((name) => name.trim()).filter(Boolean);
    if (excluded.length > 0) body.filters = { exclude_index: excluded };
    return [request('POST', `${BASE}/_bulk_${values.operation || 'pause'}`, body)];
  },
});

export const cancelTask = (task) => ({
  title: `Cancel the task on ${task.pattern}`,
  verb: 'Cancel the task',
  what: () => 'What is under way is finished; what has not begun is not done.',
  requests: () => [request('POST', `${BASE}/_task_cancel/${encodeURIComponent(task.task_id)}`, {})],
});
