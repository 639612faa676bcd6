// What the pages of both agents are made of: asking the agent, words for numbers, tabs, the dialog.

import { html, render, useCallback, useEffect, useRef, useState } from './preact.js';

export { html, render, useCallback, useEffect, useRef, useState };

// Asking --------------------------------------------------------------------------------------

/** What the agent answers, or an error with its words. */
export async function ask(path, options = {}) {
  const answer = await fetch(path, { cache: 'no-cache', ...options });
  const text = await answer.text();
  let said;
  try {
    said = JSON.parse(text);
  } catch {
    said = text;
  }
  if (answer.ok) return said;
  const error = new Error(words(said) || `${answer.status} ${answer.statusText}`);
  error.status = answer.status;
  throw error;
}

/** The innermost reason of an error in OpenSearch's form: the others only wrap it. */
function words(said) {
  if (typeof said === 'string') return said.trim().slice(0, 500);
  let cause = said?.error;
  if (typeof cause === 'string') return cause;
  while (cause?.caused_by?.reason) cause = cause.caused_by;
  return cause?.reason;
}

const askers = new Set();

/** Has everything that is shown asked for anew. */
export const refresh = () => askers.forEach((asker) => asker());

/** Asks for a path again and again while the page is seen. What was there stays until the next is. */
export function usePoll(path, seconds) {
  const [state, setState] = useState({});
  useEffect(() => {
    let isOver = false;
    let timer;
    const look = async () => {
      clearTimeout(timer);
      if (!path) return setState({});
      if (!document.hidden) {
        try {
          const data = await ask(path);
          if (!isOver) setState({ path, data });
        } catch (error) {
          // What is gone is not shown any longer; what cannot be asked for is, meanwhile.
          if (!isOver) setState((before) => (error.status === 404 ? { path, error } : { ...before, path, error }));
        }
      }
      clearTimeout(timer);
      if (!isOver) timer = setTimeout(look, seconds * 1000);
    };
    const onShown = () => document.hidden || look();
    document.addEventListener('visibilitychange', onShown);
    askers.add(look);
    look();
    return () => {
      isOver = true;
      clearTimeout(timer);
      askers.delete(look);
      document.removeEventListener('visibilitychange', onShown);
    };
  }, [path, seconds]);
  return state;
}

// Where the reader is: #view?parameters --------------------------------------------------------

function place() {
  const [view, query] = location.hash.replace(/^#/, '').split('?');
  return { view, query: new URLSearchParams(query ?? '') };
}

export const link = (view, parameters = {}) => {
  const kept = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== '');
  const query = new URLSearchParams(kept).toString();
  return `#${view}${query ? `?${query}` : ''}`;
};

/** The place, and a function that changes some of its parameters without a step in the history. */
export function usePlace() {
  const [at, setAt] = useState(place);
  useEffect(() => {
    const onMove = () => setAt(place());
    addEventListener('hashchange', onMove);
    return () => removeEventListener('hashchange', onMove);
  }, []);
  const change = useCallback((parameters) => {
    const { view, query } = place();
    history.replaceState(null, '', link(view, { ...Object.fromEntries(query), ...parameters }));
    setAt(place());
  }, []);
  return [at, change];
}

// Words ---------------------------------------------------------------------------------------

export const count = (number) => (number === undefined || number === null ? '–' : number.toLocaleString('en-US'));

export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

export function duration(millis) {
  if (millis === undefined || millis === null) return '–';
  if (millis < 1000) return `${Math.round(millis)} ms`;
  const seconds = Math.floor(millis / 1000);
  if (seconds < 60) return `${(millis / 1000).toFixed(1)} s`;
  const [minutes, hours, days] = [60, 3600, 86400].map((of) => Math.floor(seconds / of));
  if (hours < 1) return `${minutes} min ${seconds % 60} s`;
  if (days < 1) return `${hours} h ${minutes % 60} min`;
  return `${days} d ${hours % 24} h`;
}

export const time = (millis) => (millis ? new Date(millis).toLocaleString() : '–');

/** Since when, and for how long that is. */
export const since = (millis) => (millis ? `since ${time(millis)} (${duration(Math.max(0, Date.now() - millis))})` : '');

export function bytes(number) {
  if (number === undefined || number === null) return '–';
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let unit = 0;
  while (number >= 1000 && unit < units.length - 1) [number, unit] = [number / 1000, unit + 1];
  return `${unit && number < 10 ? number.toFixed(1) : Math.round(number)} ${units[unit]}`;
}

/** A cause such as `kafka_away`, as a person says it. */
export const cause = (name) => {
  const text = name.replaceAll('_', ' ').replace('kafka', 'Kafka');
  return text[0].toUpperCase() + text.slice(1);
};

// The frame -----------------------------------------------------------------------------------

const THEMES = ['auto', 'light', 'dark'];

function storedTheme() {
  try {
    return localStorage.getItem('theme') ?? 'auto';
  } catch {
    return 'auto';
  }
}

function Theme() {
  const [theme, setTheme] = useState(storedTheme);
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem('theme', theme);
    } catch {
      // It lasts as long as the page.
    }
  }, [theme]);
  return html`<label class="theme">Colours
    <select value=${theme} onChange=${(event) => setTheme(event.target.value)}>
      ${THEMES.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
    </select></label>`;
}

/** The whole page: `tabs` are pairs of a view and its name. */
export function Frame({ name, tabs, view, note, children }) {
  const skip = (event) => {
    event.preventDefault();
    document.getElementById('content').focus();
  };
  return html`
    <a class="skip" href="#content" onClick=${skip}>Skip to the content</a>
    <header>
      <div class="bar">
        <h1><img src="icon.svg" alt="" width="24" height="24" /> Shardline <span class="dim">${name}</span></h1>
        <${Theme} />
      </div>
      <nav aria-label="Views">
        ${tabs.map(([of, title]) => html`<a key=${of} href=${link(of)} aria-current=${of === view ? 'page' : undefined}>${title}</a>`)}
        <a href="metrics">Metrics</a>
      </nav>
    </header>
    <main id="content" tabindex="-1">${children}</main>
    <footer>${note}</footer>`;
}

/** What went wrong with a question, while its last answer is still shown. */
export function Trouble({ error }) {
  return error && html`<p class="trouble" role="alert">The agent does not answer as it should: ${error.message}</p>`;
}

export function Empty({ state, children }) {
  if (state.data === undefined) return state.error ? null : html`<p class="note">Reading…</p>`;
  return html`<p class="note">${children}</p>`;
}

/** Pages of a long list. */
export function Pager({ found, offset, limit, onMove, what }) {
  if (found <= limit && offset === 0) return null;
  const last = Math.min(offset + limit, found);
  return html`<div class="pager" role="group" aria-label=${`Pages of ${what}`}>
    <button type="button" disabled=${offset === 0} onClick=${() => onMove(Math.max(0, offset - limit))}>Before</button>
    <span>${count(offset + 1)} to ${count(last)} of ${count(found)}</span>
    <button type="button" disabled=${last >= found} onClick=${() => onMove(offset + limit)}>Next</button>
  </div>`;
}

/** A table that becomes a list of cards on a narrow screen, and stays a table for screen readers. */
export function Table({ label, columns, rows, keyOf, sort, onSort }) {
  const head = (column) => {
    const direction = column.sort && sort.by === column.sort ? (sort.isDescending ? 'descending' : 'ascending') : undefined;
    const title = column.hidden ? html`<span class="hidden">${column.title}</span>` : column.title;
    return html`<th key=${column.title} role="columnheader" scope="col" class=${column.kind} aria-sort=${column.sort && direction}>
      ${column.sort ? html`<button type="button" class="sort" onClick=${() => onSort(column.sort)}>${title}<span aria-hidden="true">${{ ascending: ' ▲', descending: ' ▼' }[direction] ?? ' ↕'}</span></button>` : title}
    </th>`;
  };
  const cell = (row, column, at) => html`<td key=${column.title} role=${at === 0 ? 'rowheader' : 'cell'} class=${column.kind} data-label=${column.hidden ? undefined : column.title}><div>${column.show(row)}</div></td>`;
  const sorted = columns.filter((column) => column.sort);
  return html`${sorted.length > 0 && html`<label class="only-narrow">Sort by <select value=${sort.by} onChange=${(event) => onSort(event.target.value)}>${sorted.map((column) => html`<option key=${column.sort} value=${column.sort}>${column.title}</option>`)}</select></label>`}
    <table role="table" aria-label=${label}>
    <thead role="rowgroup"><tr role="row">${columns.map(head)}</tr></thead>
    <tbody role="rowgroup">${rows.map((row) => html`<tr key=${keyOf(row)} role="row">${columns.map((column, at) => cell(row, column, at))}</tr>`)}</tbody>
  </table>`;
}

/** Terms and what they are; those without a value are left out. */
export function Facts({ of }) {
  const known = of.filter(([, value]) => value !== undefined && value !== null && value !== '' && value !== false);
  return html`<dl>${known.map(([term, value]) => html`<div key=${term}><dt>${term}</dt><dd>${value}</dd></div>`)}</dl>`;
}
