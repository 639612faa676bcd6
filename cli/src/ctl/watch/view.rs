//! What is on the screen, and what keys do to it. No I/O here.

use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::ctl::grid::{Cell, Grid, Look, Tone};
use crate::ctl::statuses::{Order, Statuses};

/// Lines that do not scroll: the summary, the header of the table, and the keys.
const FIXED_LINES: usize = 3;

/// Whether the user has seen enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    GoOn,
    Quit,
}

pub(super) struct View {
    url: String,
    order: Order,
    has_colours: bool,
    statuses: Option<Statuses>,
    /// Why the last look saw nothing.
    failure: Option<String>,
    filter: String,
    is_typing: bool,
    /// Lines of the table above the first that is shown.
    scrolled: usize,
    /// Lines of the table that fit.
    page: usize,
}

impl View {
    pub(super) fn new(url: &str, order: Order, has_colours: bool) -> Self {
        Self {
            url: url.to_owned(),
            order,
            has_colours,
            statuses: None,
            failure: None,
            filter: String::new(),
            is_typing: false,
            scrolled: 0,
            page: 1,
        }
    }

    pub(super) fn show(&mut self, statuses: Statuses) {
        self.statuses = Some(statuses);
        self.failure = None;
    }

    /// What was shown stays, under the reason why it is old.
    pub(super) fn fail(&mut self, reason: String) {
        self.failure = Some(reason);
    }

    pub(super) fn handle(&mut self, event: &Event) -> Flow {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => self.press(key),
            _ => Flow::GoOn,
        }
    }

    fn press(&mut self, key: &KeyEvent) -> Flow {
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Flow::Quit;
        }
        if self.is_typing {
            self.edit(key.code);
            return Flow::GoOn;
        }
        match key.code {
            KeyCode::Char('q') => return Flow::Quit,
            KeyCode::Char('s') => {
                self.order = self.order.next();
                self.scrolled = 0;
            }
            KeyCode::Char('/') => self.is_typing = true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Down | KeyCode::Char('j') => self.scrolled = self.scrolled.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => self.scrolled = self.scrolled.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => {
                self.scrolled = self.scrolled.saturating_add(self.page);
            }
            KeyCode::PageUp => self.scrolled = self.scrolled.saturating_sub(self.page),
            KeyCode::Home | KeyCode::Char('g') => self.scrolled = 0,
            // As far as there are lines: see `lines`.
            KeyCode::End | KeyCode::Char('G') => self.scrolled = usize::MAX,
            _ => {}
        }
        Flow::GoOn
    }

    fn edit(&mut self, key: KeyCode) {
        match key {
            KeyCode::Char(letter) => self.filter.push(letter),
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.filter.clear();
                self.is_typing = false;
            }
            _ => {}
        }
        self.scrolled = 0;
    }

    /// The screen's lines, as many as it has.
    pub(super) fn lines(&mut self, width: usize, height: usize) -> Vec<String> {
        let look = Look {
            width: Some(width),
            has_colours: self.has_colours,
        };
        let shown = self
            .statuses
            .clone()
            .unwrap_or_default()
            .containing(&self.filter);
        let tables: Vec<Vec<String>> = shown
            .tables(self.order)
            .iter()
            .map(|table| table.lines(look))
            .collect();
        let mut body = tables.join(&String::new());
        let header = match body.is_empty() {
            true => String::new(),
            false => body.remove(0),
        };
        self.page = height.saturating_sub(FIXED_LINES).max(1);
        self.scrolled = self.scrolled.min(body.len().saturating_sub(self.page));
        let mut lines = vec![self.first_line(&shown, look), header];
        let rows = body.iter().skip(self.scrolled).take(self.page);
        lines.extend(rows.cloned());
        lines.resize(height.saturating_sub(1), String::new());
        lines.push(self.last_line(body.len()));
        lines
    }

    fn first_line(&self, shown: &Statuses, look: Look) -> String {
        match (&self.failure, &self.statuses) {
            (Some(reason), _) => {
                let mut line = Grid::new(&[""]);
                line.add([Cell::toned(reason, Tone::Bad)]);
                line.lines(look).pop().unwrap_or_default()
            }
            (None, None) => format!("asking {}", self.url),
            (None, Some(_)) => format!("{}   {}", shown.summary(), self.url),
        }
    }

    fn last_line(&self, total: usize) -> String {
        if self.is_typing {
            return format!(
                "filter: {}_   Enter keeps it, Esc takes it away",
                self.filter
            );
        }
        let filter = match self.filter.is_empty() {
            true => String::new(),
            false => format!(": {} (Esc takes it away)", self.filter),
        };
        let below = total.saturating_sub(self.scrolled + self.page);
        let more = match below {
            0 => String::new(),
            below => format!("   {below} lines below"),
        };
        let order = self.order.name();
        format!("q quit   / filter{filter}   s sort by: {order}   ↑ ↓ scroll{more}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::*;

    fn statuses(number: i64) -> Statuses {
        let index = |at: i64| {
            let details = json!({
                "status": "SYNCING", "leader_alias": "eu", "leader_index": format!("i-{at:03}"),
                "syncing_details": {
                    "leader_checkpoint": at, "follower_checkpoint": 0, "seq_no": 1,
                },
                "lag_details": {"operations": at, "millis": at},
            });
            (format!("i-{at:03}"), details)
        };
        let indices: Map<String, Value> = (0..number).map(index).collect();
        serde_json::from_value(json!({ "indices": indices })).unwrap()
    }

    fn press(view: &mut View, keys: &[KeyCode]) {
        for key in keys {
            let event = Event::Key(KeyEvent::new(*key, KeyModifiers::NONE));
            assert_eq!(view.handle(&event), Flow::GoOn);
        }
    }

    fn view() -> View {
        let mut view = View::new("http://a", Order::Name, false);
        view.show(statuses(100));
        view
    }

    #[test]
    fn the_screen_is_full_and_the_header_stays() {
        let mut view = view();
        for (width, height) in [(80, 24), (200, 60), (20, 4), (80, 1)] {
            assert_eq!(view.lines(width, height).len(), height, "{width}×{height}");
        }
        press(&mut view, &[KeyCode::PageDown]);
        let lines = view.lines(80, 24);
        assert!(
            lines[0].starts_with("100 indices: 100 syncing"),
            "{lines:?}"
        );
        assert!(lines[1].starts_with("INDEX"), "{lines:?}");
        assert!(lines[2].starts_with("i-001"), "{lines:?}");
    }

    #[test]
    fn scrolling_ends_where_the_lines_end() {
        let mut view = view();
        view.lines(80, 24);
        press(&mut view, &[KeyCode::End, KeyCode::Down]);
        let lines = view.lines(80, 24);
        assert!(lines[22].starts_with("i-099"), "{lines:?}");
        press(&mut view, &[KeyCode::Up]);
        assert!(view.lines(80, 24)[22].starts_with("i-098"));
        press(&mut view, &[KeyCode::Home]);
        assert!(view.lines(80, 24)[2].starts_with("i-000"));
    }

    #[test]
    fn sorting_by_lag_puts_the_furthest_first() {
        let mut view = view();
        press(&mut view, &[KeyCode::Char('s')]);
        let lines = view.lines(80, 24);
        assert!(lines[2].starts_with("i-099"), "{lines:?}");
        assert!(lines[23].contains("sort by: lag"), "{lines:?}");
    }

    #[test]
    fn a_filter_is_typed_kept_and_taken_away() {
        let mut view = view();
        press(
            &mut view,
            &['/', 'i', '-', '0', '4', 'q'].map(KeyCode::Char),
        );
        press(&mut view, &[KeyCode::Backspace, KeyCode::Enter]);
        let lines = view.lines(80, 24);
        assert!(lines[0].starts_with("10 indices"), "{lines:?}");
        assert!(lines[2].starts_with("i-040"), "{lines:?}");
        press(&mut view, &[KeyCode::Esc]);
        assert!(view.lines(80, 24)[0].starts_with("100 indices"));
    }

    #[test]
    fn what_was_seen_stays_while_nobody_answers() {
        let mut view = view();
        view.fail("http://a does not answer".to_owned());
        let lines = view.lines(80, 24);
        assert_eq!(lines[0], "http://a does not answer");
        assert!(lines[2].starts_with("i-000"), "{lines:?}");
    }

    #[test]
    fn q_and_control_c_quit_but_not_while_typing() {
        let key = |code, modifiers| Event::Key(KeyEvent::new(code, modifiers));
        let mut view = view();
        let q = key(KeyCode::Char('q'), KeyModifiers::NONE);
        assert_eq!(view.handle(&q), Flow::Quit);
        press(&mut view, &[KeyCode::Char('/')]);
        assert_eq!(view.handle(&q), Flow::GoOn);
        let interrupt = key(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(view.handle(&interrupt), Flow::Quit);
    }
}
