//! Tables that fit into a width: names are never cut or broken, numbers line up on the right, and
//! long texts are wrapped between words, beside the row or below it.

use console::{Style, measure_text_width};

/// Between columns.
const GAP: usize = 2;

/// What a text below its row is indented by.
const INDENT: usize = 4;

/// A column of texts is not narrower than this, or than its longest word.
const TEXT_WIDTH_MIN: usize = 24;

/// How a cell is coloured, where there are colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    Good,
    Busy,
    Warning,
    Bad,
}

impl Tone {
    fn style(self) -> Style {
        let style = Style::new().force_styling(true);
        match self {
            Self::Plain => style,
            Self::Good => style.green(),
            Self::Busy => style.cyan(),
            Self::Warning => style.yellow(),
            Self::Bad => style.red().bold(),
        }
    }
}

/// What stands in a row and a column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(super) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            text: text.into(),
            tone,
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Never cut.
    Name,
    /// As a name, and left out where there is no room for all names.
    Optional,
    /// As a name, on the right.
    Number,
    /// Wrapped between words.
    Text,
}

struct Column {
    name: &'static str,
    kind: Kind,
}

/// A table.
pub(super) struct Grid {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

/// What a table is shown with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Look {
    /// Columns of the terminal; as many as it takes without one.
    pub width: Option<usize>,
    pub has_colours: bool,
}

/// Which columns stand side by side, how wide they are, and which stand below each row.
struct Layout {
    beside: Vec<(usize, usize)>,
    below: Vec<usize>,
}

impl Grid {
    /// Columns whose names begin with `#` hold numbers, those with `~` texts, and those with `?`
    /// are left out where there is no room.
    pub(super) fn new(header: &[&'static str]) -> Self {
        let columns = header.iter().map(|name| {
            let kind = match name.as_bytes().first() {
                Some(b'#') => Kind::Number,
                Some(b'~') => Kind::Text,
                Some(b'?') => Kind::Optional,
                _ => Kind::Name,
            };
            let name = name.trim_start_matches(['#', '~', '?']);
            Column { name, kind }
        });
        Self {
            columns: columns.collect(),
            rows: Vec::new(),
        }
    }

    pub(super) fn add<const N: usize>(&mut self, row: [impl Into<Cell>; N]) {
        self.rows.push(row.into_iter().map(Into::into).collect());
    }

    pub(super) fn add_rows<const N: usize>(&mut self, rows: impl IntoIterator<Item = [String; N]>) {
        rows.into_iter().for_each(|row| self.add(row));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The header and the lines of the rows.
    pub(super) fn lines(&self, look: Look) -> Vec<String> {
        let layout = self.layout(look.width);
        let mut lines = vec![self.header(&layout)];
        for row in &self.rows {
            self.row(row, &layout, look, &mut lines);
        }
        lines
    }

    fn layout(&self, width: Option<usize>) -> Layout {
        let Some(width) = width else {
            let all = 0..self.columns.len();
            return Layout {
                beside: all.map(|column| (column, self.natural(column))).collect(),
                below: Vec::new(),
            };
        };
        let of_kind = |wanted: fn(Kind) -> bool| -> Vec<usize> {
            let all = 0..self.columns.len();
            all.filter(|column| wanted(self.columns[*column].kind))
                .collect()
        };
        let mut beside = of_kind(|kind| kind != Kind::Text);
        let texts = of_kind(|kind| kind == Kind::Text);
        let taken = |columns: &[usize]| -> usize {
            columns
                .iter()
                .map(|column| self.natural(*column) + GAP)
                .sum()
        };
        if taken(&beside) > width + GAP {
            beside.retain(|column| self.columns[*column].kind != Kind::Optional);
        }
        let room = width.saturating_sub(taken(&beside));
        let Some(widths) = self.share(&texts, room) else {
            let widths = beside.iter().map(|column| (*column, self.natural(*column)));
            return Layout {
                beside: widths.collect(),
                below: texts,
            };
        };
        let names = beside.iter().map(|column| (*column, self.natural(*column)));
        let mut all: Vec<(usize, usize)> = names.chain(widths).collect();
        all.sort_unstable();
        Layout {
            beside: all,
            below: Vec::new(),
        }
    }

    /// Widths of columns of texts that fit into a room, the narrow ones first; `None` if they do
    /// not fit.
    fn share(&self, texts: &[usize], room: usize) -> Option<Vec<(usize, usize)>> {
        let mut room = room + GAP;
        let mut narrow_first = texts.to_vec();
        narrow_first.sort_by_key(|column| self.natural(*column));
        let mut widths = Vec::new();
        for (at, column) in narrow_first.iter().enumerate() {
            let natural = self.natural(*column);
            let equal = (room / (narrow_first.len() - at)).saturating_sub(GAP);
            let width = natural.min(equal);
            let least = natural.min(self.longest_word(*column).max(TEXT_WIDTH_MIN));
            if width < least {
                return None;
            }
            room -= width + GAP;
            widths.push((*column, width));
        }
        Some(widths)
    }

    fn cells(&self, column: usize) -> impl Iterator<Item = &str> {
        let header = std::iter::once(self.columns[column].name);
        header.chain(self.rows.iter().map(move |row| row[column].text.as_str()))
    }

    fn natural(&self, column: usize) -> usize {
        self.cells(column)
            .map(measure_text_width)
            .max()
            .unwrap_or(0)
    }

    fn longest_word(&self, column: usize) -> usize {
        let words = self.cells(column).flat_map(str::split_whitespace);
        words.map(measure_text_width).max().unwrap_or(0)
    }

    fn header(&self, layout: &Layout) -> String {
        let names = layout.beside.iter().map(|(column, width)| {
            let Column { name, kind } = self.columns[*column];
            padded(name, *width, kind == Kind::Number)
        });
        joined(names)
    }

    fn row(&self, row: &[Cell], layout: &Layout, look: Look, lines: &mut Vec<String>) {
        let wrapped: Vec<Vec<String>> = layout
            .beside
            .iter()
            .map(|(column, width)| match self.columns[*column].kind {
                Kind::Text => wrap(&row[*column].text, *width),
                _ => vec![row[*column].text.clone()],
            })
            .collect();
        let height = wrapped.iter().map(Vec::len).max().unwrap_or(1);
        for line in 0..height {
            let cells = layout.beside.iter().zip(&wrapped);
            lines.push(joined(cells.map(|((column, width), texts)| {
                let text = texts.get(line).map_or("", String::as_str);
                let is_number = self.columns[*column].kind == Kind::Number;
                coloured(&padded(text, *width, is_number), row[*column].tone, look)
            })));
        }
        for column in &layout.below {
            let width = look.width.unwrap_or(usize::MAX).saturating_sub(INDENT);
            let texts = wrap(&row[*column].text, width);
            let texts = texts.iter().filter(|text| !text.is_empty());
            lines.extend(texts.map(|text| {
                let text = coloured(text, row[*column].tone, look);
                format!("{:INDENT$}{text}", "")
            }));
        }
    }
}

/// Texts in one line, without what would follow the last of them.
fn joined(texts: impl Iterator<Item = String>) -> String {
    let gap = " ".repeat(GAP);
    let line = texts.collect::<Vec<_>>().join(&gap);
    line.trim_end().to_owned()
}

fn padded(text: &str, width: usize, is_right: bool) -> String {
    let missing = " ".repeat(width.saturating_sub(measure_text_width(text)));
    if is_right {
        missing + text
    } else {
        format!("{text}{missing}")
    }
}

/// Spaces stay outside of the colour, so that they can be taken off the end of a line.
fn coloured(text: &str, tone: Tone, look: Look) -> String {
    let inner = text.trim();
    if !look.has_colours || tone == Tone::Plain || inner.is_empty() {
        return text.to_owned();
    }
    text.replacen(inner, &tone.style().apply_to(inner).to_string(), 1)
}

/// Lines of at most `width` columns, broken between words; a longer word has a line of its own. One
/// empty line if there is no word.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split_whitespace() {
        let length = measure_text_width(word);
        if used > 0 && used + 1 + length > width {
            lines.push(String::new());
            used = 0;
        }
        if let Some(line) = lines.last_mut() {
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            line.push_str(word);
            used += length;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn printed(width: usize) -> String {
        let mut grid = Grid::new(&["INDEX", "?LEADER", "#LAG", "~WHY"]);
        grid.add(["logs-checkout-eu-west-2026.11.01", "eu:logs", "1,500", ""]);
        let why = "AutoPaused: document [7] is refused by the follower index";
        grid.add(["books", "eu:books", "3", why]);
        let look = Look {
            width: Some(width),
            has_colours: false,
        };
        grid.lines(look).join("\n")
    }

    #[test]
    fn texts_stand_beside_their_row_where_there_is_room() {
        let expected = "\
INDEX                             LEADER      LAG  WHY
logs-checkout-eu-west-2026.11.01  eu:logs   1,500
books                             eu:books      3  AutoPaused: document [7] is
                                                   refused by the follower index";
        assert_eq!(printed(81), expected);
        assert_eq!(printed(200).lines().count(), 3);
    }

    #[test]
    fn texts_stand_below_their_row_where_there_is_none() {
        let expected = "\
INDEX                             LEADER      LAG
logs-checkout-eu-west-2026.11.01  eu:logs   1,500
books                             eu:books      3
    AutoPaused: document [7] is refused by the
    follower index";
        assert_eq!(printed(50), expected);
    }

    #[test]
    fn names_are_whole_however_narrow_it_is() {
        let narrow = printed(20);
        assert!(
            narrow.contains("logs-checkout-eu-west-2026.11.01  1,500\n"),
            "{narrow}"
        );
        assert!(!narrow.contains("LEADER"), "{narrow}");
    }

    #[test]
    fn colours_take_no_room() {
        let mut grid = Grid::new(&["A", "B"]);
        grid.add([Cell::toned("SYNCING", Tone::Good), Cell::from("x")]);
        let look = |has_colours| Look {
            width: Some(80),
            has_colours,
        };
        let (plain, colourful) = (grid.lines(look(false)), grid.lines(look(true)));
        assert_eq!(colourful[1], "\u{1b}[32mSYNCING\u{1b}[0m  x");
        assert_eq!(console::strip_ansi_codes(&colourful[1]), plain[1]);
    }

    proptest! {
        #[test]
        fn every_word_is_shown_whole_at_any_width(
            rows in prop::collection::vec(
                ("[a-z]{1,30}", "[0-9]{1,6}", "[a-z ]{0,60}", "[a-z ]{0,60}"),
                0..5,
            ),
            width in 1_usize..120,
        ) {
            let mut grid = Grid::new(&["N", "#M", "~P", "~R"]);
            for (name, number, progress, reason) in &rows {
                grid.add([name, number, progress, reason].map(String::as_str));
            }
            let lines = grid.lines(Look { width: Some(width), has_colours: false });
            let words: Vec<&str> = lines.iter().flat_map(|line| line.split_whitespace()).collect();
            for (name, number, progress, reason) in &rows {
                let cells = [name, number, progress, reason].into_iter();
                for word in cells.flat_map(|cell| cell.split_whitespace()) {
                    prop_assert!(words.contains(&word), "{word} is not in {lines:?}");
                }
            }
            let names = rows.iter().map(|row| row.0.len() + 2 + row.1.len());
            let names = names.max().unwrap_or(0);
            let longest = words.iter().map(|word| word.len() + 4).max().unwrap_or(0);
            let most = width.max(names + 8).max(longest);
            for line in &lines {
                prop_assert!(line.len() <= most, "{line:?} in {width} columns");
            }
        }
    }
}
