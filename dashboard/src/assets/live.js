// Keeps the page up to date. The server pushes whole parts; what has changed in them is put in place, so that
// focus, selection and scrolling stay where they are.
"use strict";
(() => {
  const status = document.getElementById("connection");
  const button = document.getElementById("updates");
  const what = document.body.dataset.live;
  if (!what || !status || !button || !window.EventSource) return;
  let source = null;
  let again = null;
  let lost = null;

  // Spoken by screen readers: only what is new.
  const say = (text) => {
    if (status.textContent !== text) status.textContent = text;
  };

  const start = () => {
    clearTimeout(again);
    again = null;
    if (source) source.close();
    source = new EventSource("live?page=" + encodeURIComponent(what));
    source.addEventListener("hello", () => {
      clearTimeout(lost);
      lost = null;
      say("Live");
    });
    source.addEventListener("part", (event) => put(event.data));
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED) {
        // The server ends it every few minutes; the browser asks again by itself.
        lost ??= setTimeout(() => say("Connection lost"), 6000);
        return;
      }
      // Refused: too many pages are live, or the session has ended.
      say("Not live");
      again = setTimeout(start, 15000);
    };
    button.textContent = "Stop updates";
  };

  const stop = () => {
    clearTimeout(again);
    clearTimeout(lost);
    if (source) source.close();
    source = again = lost = null;
    say("Updates stopped");
    button.textContent = "Start updates";
  };

  const put = (text) => {
    const fresh = new DOMParser().parseFromString(text, "text/html").body.firstElementChild;
    const old = fresh && document.getElementById(fresh.id);
    if (!old) return;
    const focused = document.activeElement;
    morph(old, document.adoptNode(fresh));
    if (focused === document.activeElement) return;
    // What had the focus has moved, or is gone: then the part that it was in has it.
    const place = focused.isConnected ? focused : old.querySelector("h2");
    if (place && place !== focused) place.tabIndex = -1;
    if (place) place.focus({ preventScroll: true });
  };

  const key = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.dataset.key : undefined);

  const alike = (old, fresh) =>
    old.nodeType === fresh.nodeType && old.nodeName === fresh.nodeName && key(old) === key(fresh);

  const morph = (old, fresh) => {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    if (old.isEqualNode(fresh)) return;
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    const keyed = new Map();
    for (const child of old.childNodes) {
      if (key(child) !== undefined) keyed.set(key(child), child);
    }
    const wanted = new Set([...fresh.childNodes].map(key));
    let at = old.firstChild;
    for (const child of [...fresh.childNodes]) {
      // What is on its way out is not to be written over by what is not.
      while (at && key(at) !== undefined && !wanted.has(key(at))) {
        const gone = at;
        at = at.nextSibling;
        gone.remove();
      }
      const known = key(child) === undefined ? at : keyed.get(key(child));
      if (known && alike(known, child)) {
        if (known === at) at = at.nextSibling;
        else old.insertBefore(known, at);
        morph(known, child);
      } else {
        old.insertBefore(child, at);
      }
    }
    while (at) {
      const gone = at;
      at = at.nextSibling;
      gone.remove();
    }
  };

  button.hidden = false;
  button.addEventListener("click", () => (source || again ? stop() : start()));
  // A page that nobody sees asks for nothing.
  document.addEventListener("visibilitychange", () => {
    if (button.textContent !== "Stop updates") return;
    if (document.hidden) {
      if (source) source.close();
    } else {
      start();
    }
  });
  window.addEventListener("pagehide", () => source && source.close());
  window.addEventListener("pageshow", (event) => event.persisted && source && start());
  start();
})();
