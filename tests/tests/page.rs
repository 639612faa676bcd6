//! The pages of both agents in a real browser, on a real pair: every action is done once, nobody is
//! kept out, nothing is rebuilt under the reader, and no other site can act.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shardline_tests::browser::{Browser, PHONE};
use shardline_tests::reader::Reader;
use shardline_tests::wait;
use shardline_tests::world::{ALIAS, World};

const PATIENCE: Duration = Duration::from_secs(120);
const WIDE: u32 = 1360;
/// Enough that a task on them can be cancelled.
const INDICES: u32 = 40;
const VIEWS: [(&str, &str); 5] = [
    ("indices", "#indices"),
    ("groups", "#indices?group=1"),
    ("index", "#index?name=books-copy"),
    ("rules", "#rules"),
    ("cluster", "#cluster"),
];
/// Whether a view has what it asked for.
const WHOLE: &str = "const main = document.querySelector('main');
    return Boolean(main?.querySelector('h2')) && !main.textContent.includes('Reading…')";
#[tokio::test(flavor = "multi_thread")]
async fn the_pages_are_used() -> Result<()> {
    let world = World::with(|options| {
        let config = std::mem::take(&mut options.follower_agent_config);
        options.follower_agent_config = config.set("admin", "actions", true);
    })
    .await?;
    prepare(&world).await?;
    let page = Reader {
        browser: Browser::start().await?,
        base: format!(
            "http://127.0.0.1:{}/",
            world.stack.ports().follower_agents[0].admin
        ),
    };
    an_index_is_followed(&page, &world).await?;
    it_is_paused_resumed_and_verified(&page, &world).await?;
    dead_letters_are_delivered_again(&page, &world).await?;
    a_rule_is_made_and_deleted(&page, &world).await?;
    many_are_changed_at_once(&page, &world).await?;
    nothing_is_rebuilt_under_the_reader(&page, &world).await?;
    everybody_can_use_it(&page).await?;
    no_other_site_acts(&page, &world).await?;
    the_leader_agents_page_shows_where_shards_stand(&page, &world).await?;
    an_index_is_stopped(&page, &world).await?;
    let errors = page.browser.errors().await?;
    ensure!(errors.is_empty(), "{errors:?}");
    page.browser.stop().await?;
    world.stop().await
}

async fn prepare(world: &World) -> Result<()> {
    let settings = json!({"number_of_shards": 2, "number_of_replicas": 0});
    let mappings = json!({"properties": {"items": {"type": "nested"}}});
    let body = json!({"settings": settings, "mappings": mappings});
    world.leader.ok("PUT", "/books", Some(&body)).await?;
    world.put_numbered("books", "book", 20).await?;
    let small = json!({"settings": {"number_of_shards": 1, "number_of_replicas": 0}});
    for n in 1..=INDICES {
        let path = format!("/logs-2026.11.{n:02}");
        world.leader.ok("PUT", &path, Some(&small)).await?;
    }
    let switch = json!({"persistent": {"plugins.replication.follower.dead_letters": true}});
    world
        .gateway
        .ok("PUT", "/_cluster/settings", Some(&switch))
        .await?;
    Ok(())
}

async fn an_index_is_followed(page: &Reader, world: &World) -> Result<()> {
    page.open("").await?;
    page.reads("No index is followed yet.").await?;
    page.press("Follow an index").await?;
    page.fill("leader_alias", ALIAS).await?;
    page.fill("leader_index", "books").await?;
    page.fill("follower_index", "books-copy").await?;
    page.fill("settings", r#"{"index.mapping.nested_objects.limit": 1}"#)
        .await?;
    page.shows_request("/_plugins/_replication/books-copy/_start")
        .await?;
    // What the leader has by that name.
    let script = "return document.querySelector('dialog[open] ul')?.textContent.includes('books')";
    page.browser.until("the preview", script, &[]).await?;
    page.press("Start").await?;
    page.is_done().await?;
    wait::for_status(&world.gateway, "books-copy", "SYNCING", PATIENCE).await?;
    page.reads("books-copy").await?;
    page.reads("SYNCING").await
}

async fn it_is_paused_resumed_and_verified(page: &Reader, world: &World) -> Result<()> {
    page.open("#index?name=books-copy").await?;
    page.press("Pause").await?;
    page.fill("reason", "maintenance").await?;
    page.shows_request(r#"'{"reason":"maintenance"}'"#).await?;
    page.press("Pause").await?;
    page.is_done().await?;
    wait::for_status(&world.gateway, "books-copy", "PAUSED", PATIENCE).await?;
    page.reads("maintenance").await?;
    page.press("Resume").await?;
    page.shows_request("/_resume").await?;
    page.press("Resume").await?;
    page.is_done().await?;
    world.equal("books", "books-copy").await?;
    page.press("Verify").await?;
    page.fill("content", true).await?;
    page.shows_request(r#""content":true"#).await?;
    page.press("Verify").await?;
    page.is_done().await?;
    page.reads("equal").await?;
    page.browser.picture("index").await?;
    page.press("Forget").await?;
    page.shows_request("-X DELETE").await?;
    page.press("Forget").await?;
    page.is_done().await?;
    page.reads("It has not been compared with its leader yet.")
        .await
}

async fn dead_letters_are_delivered_again(page: &Reader, world: &World) -> Result<()> {
    let poison = json!({"items": [{"n": 1}, {"n": 2}]});
    world
        .leader
        .ok("PUT", "/books/_doc/poison", Some(&poison))
        .await?;
    page.reads("1 dead letter").await?;
    page.press("Show the documents").await?;
    page.reads("poison").await?;
    page.browser.picture("dead-letters").await?;
    page.press("Settings").await?;
    page.fill("settings", r#"{"index.mapping.nested_objects.limit": 100}"#)
        .await?;
    page.press("Update").await?;
    page.is_done().await?;
    page.press("Deliver again").await?;
    page.shows_request("/_dead_letters/_replay").await?;
    page.press("Deliver again").await?;
    page.is_done().await?;
    wait::until("the letter is gone", PATIENCE, async || {
        let status = wait::status(&world.gateway, "books-copy").await?;
        let is_gone = status.get("dead_letters").is_none();
        Ok(if is_gone {
            Ok(())
        } else {
            Err(status.to_string())
        })
    })
    .await?;
    world.equal("books", "books-copy").await
}

async fn a_rule_is_made_and_deleted(page: &Reader, world: &World) -> Result<()> {
    page.open("#rules").await?;
    page.press("New rule").await?;
    page.fill("leader_alias", ALIAS).await?;
    page.fill("name", "first-logs").await?;
    page.fill("pattern", "logs-2026.11.0*").await?;
    let script = "return document.querySelector('dialog[open]')?.textContent.includes('Finds 9')";
    page.browser.until("the preview", script, &[]).await?;
    page.browser.picture("rule").await?;
    page.press("Make the rule").await?;
    page.is_done().await?;
    for n in 1..=9 {
        let index = format!("logs-2026.11.{n:02}");
        wait::for_status(&world.gateway, &index, "SYNCING", PATIENCE).await?;
    }
    page.reads("logs-2026.11.0*").await?;
    page.press("Delete").await?;
    page.shows_request("-X DELETE").await?;
    page.press("Delete").await?;
    page.is_done().await?;
    page.reads("There is no rule").await
}

async fn many_are_changed_at_once(page: &Reader, world: &World) -> Result<()> {
    page.open("#indices?q=logs-*").await?;
    page.reads("9 indices").await?;
    page.press("Many at once").await?;
    page.fill("sure", true).await?;
    page.shows_request(r#"{"pattern":"logs-*"}"#).await?;
    page.press("Begin").await?;
    page.is_done().await?;
    wait::for_status(&world.gateway, "logs-2026.11.09", "PAUSED", PATIENCE).await?;
    page.open("#indices?q=logs-*").await?;
    // A few by hand.
    let script = "const boxes = document.querySelectorAll('tbody input[type=checkbox]');
        if (boxes.length !== 9) return false;
        [boxes[0], boxes[8]].forEach((box) => box.click());
        return true";
    page.browser.until("two are selected", script, &[]).await?;
    page.press("Resume").await?;
    page.shows_request("logs-2026.11.09/_resume").await?;
    page.press("Resume").await?;
    page.is_done().await?;
    wait::for_status(&world.gateway, "logs-2026.11.01", "SYNCING", PATIENCE).await?;
    wait::for_status(&world.gateway, "logs-2026.11.02", "PAUSED", PATIENCE).await?;
    page.press("Many at once").await?;
    page.fill("operation", "start").await?;
    page.fill("pattern", "logs-2026.11.*").await?;
    page.fill("leader_alias", ALIAS).await?;
    page.fill("sure", true).await?;
    page.shows_request("_bulk_start").await?;
    page.press("Begin").await?;
    page.is_done().await?;
    page.open("#cluster").await?;
    page.press("Cancel").await?;
    page.shows_request("_task_cancel").await?;
    page.browser.picture("task").await?;
    page.press("Cancel the task").await?;
    page.is_done().await?;
    let script = "return document.querySelectorAll('table[aria-label=Tasks] tbody tr').length === 2
        && !document.querySelector('table[aria-label=Tasks] button')";
    page.browser
        .until("no task is under way", script, &[])
        .await
        .map(drop)
}

/// While numbers change, what the reader has marked, where they stand and what has the focus stay.
async fn nothing_is_rebuilt_under_the_reader(page: &Reader, world: &World) -> Result<()> {
    page.open("#indices").await?;
    page.reads("Furthest behind").await?;
    page.reads("books-copy").await?;
    let before = "const row = [...document.querySelectorAll('tbody tr')]
            .find((row) => row.textContent.includes('books-copy'));
        row.dataset.mark = 'kept';
        getSelection().selectAllChildren(row.querySelector('a'));
        row.querySelector('a').focus();
        document.documentElement.style.minHeight = '3000px';
        scrollTo(0, 120);
        return [row.querySelector('td:nth-of-type(7)').textContent,
            Math.round(row.getBoundingClientRect().top)]";
    let before = page.browser.run(before, &[]).await?;
    world.put_numbered("books", "more", 10).await?;
    let after = "const row = document.querySelector('[data-mark=kept]');
        if (row.querySelector('td:nth-of-type(7)').textContent === arguments[0]) return false;
        return [getSelection().toString(), document.activeElement.textContent,
            Math.round(row.getBoundingClientRect().top)]";
    let kept = page
        .browser
        .until("the number changes", after, &[before[0].clone()])
        .await?;
    let expected = json!(["books-copy", "books-copy", before[1]]);
    ensure!(kept == expected, "{before}, {kept}");
    // By the keyboard: Enter follows the link that has the focus.
    page.browser.press("\u{e007}").await?;
    page.reads("All indices").await?;
    // How long a filter takes, seen from the reader.
    page.open("#indices").await?;
    page.reads("books-copy").await?;
    let filter = "const done = arguments[0];
        const field = document.querySelector('input[type=search]');
        const began = performance.now();
        new MutationObserver(() => {
            const found = document.querySelector('[data-found=\"1\"]');
            if (found) done(performance.now() - began);
        }).observe(document, { subtree: true, childList: true, attributes: true });
        field.value = 'books';
        field.dispatchEvent(new Event('input', { bubbles: true }))";
    let took = page.browser.run_async(filter, &[]).await?;
    let first = "const paint = performance.getEntriesByName('first-contentful-paint')[0];
        return Math.round(paint?.startTime ?? -1)";
    let first = page.browser.run(first, &[]).await?;
    println!("a filter took {took} ms, the first content {first} ms");
    Ok(())
}

async fn everybody_can_use_it(page: &Reader) -> Result<()> {
    for (screen, width, is_dark) in [
        ("wide", WIDE, false),
        ("dark", WIDE, true),
        ("phone", PHONE, false),
    ] {
        page.browser.screen(width, is_dark).await?;
        for (name, view) in VIEWS {
            page.open(view).await?;
            page.browser.until(name, WHOLE, &[]).await?;
            is_accessible(&page.browser, &format!("{screen}-{name}")).await?;
        }
        page.open("#indices").await?;
        page.press("Follow an index").await?;
        page.shows_request("_start").await?;
        is_accessible(&page.browser, &format!("{screen}-dialog")).await?;
    }
    page.browser.screen(WIDE, false).await
}

async fn is_accessible(browser: &Browser, name: &str) -> Result<()> {
    browser.picture(name).await?;
    let findings = browser.findings().await?;
    ensure!(findings.is_empty(), "{name}: {findings:?}");
    let overflow = browser.overflow().await?;
    ensure!(overflow <= 0, "{name} is {overflow} pixels too wide");
    Ok(())
}

/// A page of another origin, which the operator has open, too.
async fn no_other_site_acts(page: &Reader, world: &World) -> Result<()> {
    let errors = page.browser.errors().await?;
    ensure!(errors.is_empty(), "{errors:?}");
    let other = format!("http://localhost:{}/", world.stack.ports().leader_agents[0]);
    page.browser.open(&other).await?;
    let script = "const [address, headers, done] = arguments;
        fetch(address, { method: 'POST', headers, mode: 'no-cors', body: '{}' })
            .then((answer) => done(`${answer.type} ${answer.status}`),
                  (error) => done(`${error}`))";
    let call = format!(
        "{}page/api/_plugins/_replication/books-copy/_pause",
        page.base
    );
    for headers in [
        json!({}),
        json!({"x-shardline-page": "1", "content-type": "application/json"}),
    ] {
        page.browser
            .run_async(script, &[call.as_str().into(), headers])
            .await?;
    }
    // The policy of the page that is open may have stopped them: so they are sent without one, too.
    let client = reqwest::Client::new();
    for origin in ["http://evil.example", "null"] {
        let request = client.post(&call).header("origin", origin);
        let answer = request.header("x-shardline-page", "1").send().await?;
        ensure!(answer.status() == 403, "{origin}: {answer:?}");
    }
    let status = wait::status(&world.gateway, "books-copy").await?;
    ensure!(status["status"] == "SYNCING", "{status}");
    // What the policy kept from being sent is not an error of the pages.
    page.browser.errors().await.map(drop)
}

async fn the_leader_agents_page_shows_where_shards_stand(
    page: &Reader,
    world: &World,
) -> Result<()> {
    let base = format!("http://127.0.0.1:{}/", world.stack.ports().leader_agents[0]);
    for (screen, width) in [("wide", WIDE), ("phone", PHONE)] {
        page.browser.screen(width, false).await?;
        for (view, words) in [
            ("#shards?q=books", "books"),
            ("#node", "translogs on its disk"),
        ] {
            page.browser.open(&format!("{base}{view}")).await?;
            page.reads(words).await?;
            let name = view
                .trim_start_matches('#')
                .split('?')
                .next()
                .unwrap_or_default();
            is_accessible(&page.browser, &format!("leader-{screen}-{name}")).await?;
        }
    }
    page.browser.screen(WIDE, false).await?;
    let shards = reqwest::get(format!("{base}page/shards?q=books")).await?;
    let shards: Value = shards.json().await?;
    ensure!(shards["found"] == 2, "{shards}");
    let rows = shards["rows"].as_array().context("rows")?;
    let is_whole = |row: &Value| row["shipped"] == row["checkpoint"] && row["followers"] == 1;
    ensure!(rows.iter().all(is_whole), "{shards}");
    Ok(())
}

async fn an_index_is_stopped(page: &Reader, world: &World) -> Result<()> {
    page.open("#index?name=books-copy").await?;
    page.press("Stop").await?;
    page.shows_request("/_stop").await?;
    let is_possible = page.offers("Stop").await?;
    ensure!(!is_possible, "it can be stopped without being sure");
    page.fill("sure", true).await?;
    page.press("Stop").await?;
    page.is_done().await?;
    page.reads("It is not followed.").await?;
    let status = wait::status(&world.gateway, "books-copy").await?;
    ensure!(
        status["status"] == "REPLICATION NOT IN PROGRESS",
        "{status}"
    );
    Ok(())
}
