//! What is around every page: [`Frame`].

use axum::response::Html;
use maud::{DOCTYPE, Markup, html};

use crate::dashboard::App;
use crate::guard::{TOKEN_FIELD, Visitor};

/// Which entry of the navigation a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    Overview,
    Dead,
    Job,
    Other,
}

pub(crate) struct Frame<'a> {
    app: &'a App,
    title: &'a str,
    page: Page,
    visitor: Option<&'a Visitor>,
    /// What is kept up to date, and every how many seconds where there is no script.
    live: Option<(&'static str, Option<u32>)>,
}

impl<'a> Frame<'a> {
    /// For who is not known.
    pub(crate) fn new(app: &'a App, title: &'a str) -> Self {
        Frame { app, title, page: Page::Other, visitor: None, live: None }
    }

    pub(crate) fn of(app: &'a App, title: &'a str, visitor: &'a Visitor, page: Page) -> Self {
        Frame { app, title, page, visitor: Some(visitor), live: None }
    }

    /// Keeps parts of the page up to date: by a script, else by loading it anew.
    pub(crate) fn live(self, what: &'static str, refresh: Option<u32>) -> Self {
        Frame { live: Some((what, refresh)), ..self }
    }

    pub(crate) fn show(&self, content: Markup) -> Html<String> {
        let Frame { app, title, page, visitor, live } = self;
        let markup = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (title) " · " (app.title) }
                    link rel="stylesheet" href="style.css";
                    link rel="icon" type="image/svg+xml" href="icon.svg";
                    @if let Some((_, refresh)) = live {
                        script src="live.js" defer {}
                        @if let Some(seconds) = refresh {
                            noscript { meta http-equiv="refresh" content=(seconds); }
                        }
                    }
                }
                body data-live=[live.map(|(what, _)| what)] {
                    a.skip href="#main" { "Skip to the content" }
                    header.top {
                        p.brand { (app.title) }
                        @if let Some(visitor) = visitor {
                            nav aria-label="Pages" {
                                ul {
                                    (entry("overview", "Overview", *page == Page::Overview))
                                    (entry("dead", "Dead letters", *page == Page::Dead))
                                    @if app.jobs.last().is_some() || *page == Page::Job {
                                        (entry("job", "Job", *page == Page::Job))
                                    }
                                }
                            }
                            @if visitor.form_token.is_none() {
                                p.tag { "Read only" }
                            }
                            @if visitor.session.is_some() {
                                form method="post" action="sign-out" {
                                    (token(visitor))
                                    button type="submit" { "Sign out" }
                                }
                            }
                        }
                        @if live.is_some() {
                            // Shown, and spoken, by the script.
                            div.live {
                                span #connection role="status" {}
                                button #updates type="button" hidden { "Stop updates" }
                            }
                        }
                    }
                    main #main tabindex="-1" { (content) }
                }
            }
        };
        Html(markup.into_string())
    }
}

fn entry(href: &str, name: &str, is_here: bool) -> Markup {
    html! { li { a href=(href) aria-current=[is_here.then_some("page")] { (name) } } }
}

/// What proves that a form is from here.
pub(crate) fn token(visitor: &Visitor) -> Markup {
    html! {
        @if let Some(token) = &visitor.form_token {
            input type="hidden" name=(TOKEN_FIELD) value=(token);
        }
    }
}
