// Sends a photograph as it is, without its name: of that only the ending, which says the format.
// props, trigger and element are gradio's.
const drop = () => element.querySelector(".drop");
const send = async file => {
  const notice = document.getElementById("pulse-notice");
  const ending = file.name.match(/\.[A-Za-z0-9]{1,5}$/);
  drop().setAttribute("aria-busy", "true");
  let token;
  try {
    const answer = await fetch(`photograph?ending=${ending ? ending[0].slice(1) : ""}`, { method: "POST", body: file });
    token = await answer.text();
  } catch (error) {
    token = "lost";
  }
  drop().removeAttribute("aria-busy");
  props.value = token;
  trigger("upload");
};
element.addEventListener("change", event => {
  if (event.target.files.length) send(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});
element.addEventListener("dragover", event => {
  event.preventDefault();
  drop().classList.add("over");
});
element.addEventListener("dragleave", () => drop().classList.remove("over"));
element.addEventListener("drop", event => {
  event.preventDefault();
  drop().classList.remove("over");
  if (event.dataTransfer.files.length) send(event.dataTransfer.files[0]);
});
