// Light or dark: as the system says, or ?theme=, or the button.

function theme() {
  const root = document.documentElement, button = document.getElementById("theme");
  const asked = new URLSearchParams(location.search).get("theme");
  const set = (name) => {
    root.dataset.theme = name;
    button.textContent = name === "dark" ? "Light" : "Dark";
  };
  set(asked ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  button.addEventListener("click", () => set(root.dataset.theme === "dark" ? "light" : "dark"));
}
