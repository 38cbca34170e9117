// The API's documentation: Swagger UI, which its own script has put into `window` before this one runs.

window.SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  showExtensions: true,
  // A secret that is typed in is gone with the page, and nothing is sent to swagger.io.
  persistAuthorization: false,
  validatorUrl: null,
});
