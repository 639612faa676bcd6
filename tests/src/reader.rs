//! Somebody who uses an agent's page as a person would: by what is written on it.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::browser::Browser;

/// The button with these words that a person could press now.
const BUTTON: &str = "const open = document.querySelector('dialog[open]') ?? document;
    const button = [...open.querySelectorAll('button')].find((button) =>
        button.textContent.trim().startsWith(arguments[0]) && !button.disabled);";

/// Somebody before the follower agent's page.
pub struct Reader {
    pub browser: Browser,
    /// The page's address, with a slash at its end.
    pub base: String,
}

impl Reader {
    /// Opens a view, such as `#rules`.
    pub async fn open(&self, view: &str) -> Result<()> {
        self.browser.open(&format!("{}{view}", self.base)).await
    }

    /// Presses a button once it is there.
    pub async fn press(&self, words: &str) -> Result<()> {
        let script = format!("{BUTTON} button?.click(); return Boolean(button)");
        self.browser
            .until(words, &script, &[words.into()])
            .await
            .map(drop)
    }

    /// Whether there is a button with these words that can be pressed.
    pub async fn offers(&self, words: &str) -> Result<bool> {
        let script = format!("{BUTTON} return Boolean(button)");
        Ok(self.browser.run(&script, &[words.into()]).await? == true)
    }

    /// Fills a field of the open dialog.
    pub async fn fill(&self, name: &str, value: impl Into<Value>) -> Result<()> {
        let script = "const field = document.querySelector(`dialog[open] [name=${arguments[0]}]`);
            if (!field) return false;
            const value = arguments[1];
            if (field.type === 'checkbox') { if (field.checked !== value) field.click(); }
            else {
                field.value = value;
                field.dispatchEvent(new Event('input', { bubbles: true }));
                field.dispatchEvent(new Event('change', { bubbles: true }));
            }
            return true";
        let arguments = [name.into(), value.into()];
        self.browser.until(name, script, &arguments).await.map(drop)
    }

    /// Waits until the dialog shows a request with these words.
    pub async fn shows_request(&self, words: &str) -> Result<()> {
        let script = "const shown = document.querySelector('dialog[open] pre')?.textContent ?? '';
            return shown.startsWith('curl -X') && shown.includes(arguments[0])";
        self.browser
            .until(words, script, &[words.into()])
            .await
            .map(drop)
    }

    /// Waits until the page says that something is done, and the dialog is gone.
    pub async fn is_done(&self) -> Result<()> {
        let script = "const trouble = document.querySelector('dialog[open] .trouble');
            if (trouble) return trouble.textContent;
            return !document.querySelector('dialog[open]') && 'done'";
        let said = self
            .browser
            .until("the dialog is gone", script, &[])
            .await?;
        ensure!(said == "done", "{said}");
        Ok(())
    }

    /// Waits until the page has these words.
    pub async fn reads(&self, words: &str) -> Result<()> {
        let script = "return document.querySelector('main')?.textContent.includes(arguments[0])";
        self.browser
            .until(words, script, &[words.into()])
            .await
            .map(drop)
    }
}
