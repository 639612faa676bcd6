// What several views show.

import { Chart } from './chart.js';
import { count, duration, html, usePoll } from './frame.js';

export const State = ({ state }) => html`<span class=${`state ${state}`}>${state}</span>`;

/** The lag of an index, or of all, over the last hour. */
export function History({ name }) {
  const { data } = usePoll(`page/history${name ? `?name=${encodeURIComponent(name)}` : ''}`, 30);
  if (!data) return null;
  const common = { intervalMillis: data.interval_ms, endMillis: data.taken_ms };
  return html`<section class="box columns" aria-label="The last hour">
    <${Chart} title=${name ? 'Behind' : 'Furthest behind'} values=${data.millis} format=${duration} ...${common} />
    <${Chart} title="Operations behind" values=${data.operations} format=${count} ...${common} />
  </section>`;
}
