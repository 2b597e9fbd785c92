"use strict";

SwaggerUIBundle({
  url: new URL("../api-doc/openapi.json", location.href).href,
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null, // ask nobody else
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
});
