//! The terminal while a screen is drawn on it. It is as it was when the screen is left, however
//! that comes about.

use std::io::{Stdout, Write as _};

use console::truncate_str;
use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::style::Print;
use crossterm::terminal::{
    self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
    enable_raw_mode,
};
use crossterm::{execute, queue};

use super::view::View;

/// The alternate screen, with keys read one by one.
pub(super) struct Screen(Stdout);

impl Screen {
    pub(super) fn enter() -> std::io::Result<Self> {
        enable_raw_mode()?;
        let mut screen = Self(std::io::stdout());
        execute!(screen.0, EnterAlternateScreen, Hide)?;
        Ok(screen)
    }

    pub(super) fn draw(&mut self, view: &mut View) -> std::io::Result<()> {
        let (width, height) = terminal::size()?;
        let lines = view.lines(usize::from(width), usize::from(height));
        for (row, line) in (0_u16..).zip(&lines) {
            let line = truncate_str(line, usize::from(width), "…");
            queue!(
                self.0,
                MoveTo(0, row),
                Print(line),
                Clear(ClearType::UntilNewLine)
            )?;
        }
        self.0.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nobody is left who could be told.
        let _ = execute!(self.0, Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}
