// Light or dark: as the system says, unless one was chosen. What is chosen lasts as long as the tab.
import { useEffect, useState } from "preact/hooks";

type Theme = "light" | "dark";
const NAME = "led-agent-theme";
const system = matchMedia("(prefers-color-scheme: dark)");
const listeners = new Set<() => void>();

function kept(): string | null {
  try {
    return sessionStorage.getItem(NAME);
  } catch {
    return null; // a file's page may be denied any storage
  }
}

let chosen: Theme | null = kept() === "dark" ? "dark" : kept() === "light" ? "light" : null;

function apply(): void {
  document.documentElement.dataset["theme"] = chosen ?? (system.matches ? "dark" : "light");
  for (const listener of listeners) listener();
}

system.addEventListener("change", apply);
apply();

export const theme = (): Theme => (document.documentElement.dataset["theme"] === "dark" ? "dark" : "light");

export function onTheme(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function useTheme(): [Theme, () => void] {
  const [now, setNow] = useState(theme());
  useEffect(() => onTheme(() => setNow(theme())), []);
  const toggle = () => {
    chosen = theme() === "dark" ? "light" : "dark";
    try {
      sessionStorage.setItem(NAME, chosen);
    } catch {
      // then it lasts as long as the page
    }
    apply();
  };
  return [now, toggle];
}
